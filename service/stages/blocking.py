"""blocking: the job runs in the handler. While it does, nobody else is served."""

import asyncio
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from service.stages.shared import Handler, Options


class Stage(Handler):
    async def get(self) -> None:
        number = self.number()
        # `async` alone changes nothing: without an await the handler keeps the thread. The others wait in the
        # kernel; their clients give up; their requests are still read later, and run for nobody.
        self.job(number)  # blocks
        self.write(f"{number} done\n")


async def serve(options: Options, sockets: list[socket]) -> None:
    HTTPServer(Application([("/", Stage, {"job": options.job})])).add_sockets(sockets)
    await asyncio.Event().wait()


def main(options: Options) -> None:
    sockets = bind_sockets(options.port, "127.0.0.1")
    asyncio.run(serve(options, sockets))
