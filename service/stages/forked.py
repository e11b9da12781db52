"""forked: one process per core, on one port. As many requests at a time as there are cores."""

import asyncio
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.process import fork_processes
from tornado.web import Application

from service.stages.shared import Handler, Options


class Stage(Handler):
    async def get(self) -> None:
        number = self.number()
        self.job(number)  # blocks one process
        self.write(f"{number} done\n")


async def serve(options: Options, sockets: list[socket]) -> None:
    HTTPServer(Application([("/", Stage, {"job": options.job})])).add_sockets(sockets)
    await asyncio.Event().wait()


def main(options: Options) -> None:
    sockets = bind_sockets(options.port, "127.0.0.1")
    # What was HTTPServer.start(0). Everything above this line exists once, and each child inherits it: the socket, so
    # that the kernel gives a connection to whoever accepts first. Everything below exists once in each child: the
    # event loop must be there, see forked_consumer. 0 means one per core, and knows nothing of a container's quota.
    fork_processes(0)
    asyncio.run(serve(options, sockets))
