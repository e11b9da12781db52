"""The limit of the intake: a Tornado handler that parses the same body and answers 202, and stores nothing.

`LISTEN=unix:PATH python -m loadtest.bench.bare`: one process."""

import asyncio
import json
import os
import signal
import uuid

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler


class Accept(RequestHandler):
    def post(self) -> None:
        job = json.loads(self.request.body)
        self.set_status(202)
        self.finish({"id": str(uuid.uuid4()), "job": job["job"], "state": "queued"})


class Ready(RequestHandler):
    def get(self) -> None:
        self.finish({"status": "ready"})


async def serve(application: Application) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = HTTPServer(application)
    server.add_socket(bind_unix_socket(os.environ["LISTEN"].removeprefix("unix:"), backlog=4096))
    await stop.wait()
    server.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    asyncio.run(serve(Application([("/jobs", Accept), ("/readyz", Ready)], log_function=lambda handler: None)))
