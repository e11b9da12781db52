"""The same work with huey on SQLite: its tasks, and an intake that stands where ours does.

`LISTEN=unix:PATH python -m loadtest.bench.peer`: one process that enqueues. The consumer is huey's own:
`huey_consumer loadtest.bench.peer.huey`."""

import asyncio
import json
import os
from typing import Any

from huey import SqliteHuey
from tornado.web import Application, RequestHandler

from .bare import Ready, serve

huey = SqliteHuey(filename=os.environ["PEER_FILE"], fsync=True)


@huey.task()  # type: ignore[untyped-decorator]
def noop(job_id: Any = None) -> Any:
    """Nothing; its result is kept only when it is not None."""
    return job_id


class Accept(RequestHandler):
    def post(self) -> None:
        job = json.loads(self.request.body)
        task = noop(**job["args"])
        self.set_status(202)
        self.finish({"id": task.id, "job": job["job"], "state": "queued"})


if __name__ == "__main__":
    asyncio.run(serve(Application([("/jobs", Accept), ("/readyz", Ready)], log_function=lambda handler: None)))
