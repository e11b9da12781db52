"""/jobs/{id}/events: every change of a job's state as it happens, as server-sent events."""

from __future__ import annotations

from contextlib import suppress

import msgspec
from tornado.iostream import StreamClosedError

from service.errors import Crowded, NotFound
from service.handlers.jobs import Follow
from service.handlers.view import events

ALIVE = 15.0  # seconds between signs of life; proxies cut what is silent, and a client that is gone is found so


class Events(Follow):
    """The id of an event is the job's version: whoever comes back with `Last-Event-ID` gets what came after it."""

    methods = ("GET",)

    async def get(self, id: str) -> None:
        seen = last_event_id(self.request.headers.get("Last-Event-ID", ""))
        record = await self.record(id)
        if seen > record.version:
            seen = -1  # of another life of the store: a copy of before was restored
        if record.state.ended and seen == record.version:
            return self.set_status(204)  # a browser would otherwise come back for ever
        if self.server.watch.full:
            raise Crowded("too many follow jobs here already: ask for the job from time to time")
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")  # nginx would keep them until there are enough
        with suppress(StreamClosedError, NotFound):  # whoever asked is gone, or the job is not kept any more
            await self.stream(id, seen)

    async def stream(self, id: str, seen: int) -> None:
        while True:
            record = await self.record(id)
            for event in events(record):
                if event.version > seen:
                    data = msgspec.json.encode(event.data).decode()
                    self.write(f"id: {event.version}\nevent: state\ndata: {data}\n\n")
            seen = max(seen, record.version)
            await self.flush()
            if record.state.ended:
                return
            while not await self.server.watch.change(id, seen, ALIVE):
                if self.server.draining:
                    return  # it comes back, to another producer
                self.write(": still\n\n")
                await self.flush()


def last_event_id(header: str) -> int:
    """The version after which to go on; -1, before all, where there is none that we gave."""
    return int(header) if header.isascii() and header.isdigit() and len(header) < 19 else -1
