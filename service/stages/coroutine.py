"""coroutine: a job that waits gives the loop away, so any number can wait at once. One that computes keeps it."""

import asyncio
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from service.stages.shared import Handler, Options, finished


class Stage(Handler):
    async def get(self) -> None:
        number = self.number()
        if self.job.name == "sleep":
            # At the await the loop takes the next request, and comes back when the second is over. It needs a
            # function made for it: a driver that only knows how to block would have to be exchanged.
            await asyncio.sleep(self.job.amount)
            finished(number)
        else:
            self.job(number)  # blocks: there is nothing in it to wait for
        self.write(f"{number} done\n")


async def serve(options: Options, sockets: list[socket]) -> None:
    HTTPServer(Application([("/", Stage, {"job": options.job})])).add_sockets(sockets)
    await asyncio.Event().wait()


def main(options: Options) -> None:
    sockets = bind_sockets(options.port, "127.0.0.1")
    asyncio.run(serve(options, sockets))
