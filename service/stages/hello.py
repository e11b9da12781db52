"""hello: a handler that only logs. It answers everyone at once, and does nothing."""

import asyncio
import logging
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from service.stages.shared import Handler, Options


class Stage(Handler):
    async def get(self) -> None:
        number = self.number()
        logging.info("hello %s", number)
        self.write(f"{number} done\n")


async def serve(options: Options, sockets: list[socket]) -> None:
    # One thread runs one event loop. It takes what has arrived on any connection, runs its handler up to the next
    # await, and takes the next. So thousands of connections are cheap, as long as no handler keeps the thread.
    HTTPServer(Application([("/", Stage, {"job": options.job})])).add_sockets(sockets)
    await asyncio.Event().wait()


def main(options: Options) -> None:
    sockets = bind_sockets(options.port, "127.0.0.1")
    asyncio.run(serve(options, sockets))
