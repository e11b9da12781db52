"""thread_executor: any blocking function, in twenty threads. The loop stays free; computing threads take turns."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from socket import socket

from tornado.concurrent import run_on_executor
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from service.stages.shared import Handler, Options


class Stage(Handler):
    # The twenty-first job waits in the pool's queue, which has no bound, and does not know that its client has gone.
    # Only one thread at a time runs Python (the GIL), so ten that compute take ten times as long as one.
    executor = ThreadPoolExecutor(20)

    @run_on_executor
    def work(self, number: object) -> None:
        self.job(number)  # blocks one thread

    async def get(self) -> None:
        number = self.number()
        await self.work(number)  # Tornado's way: the decorator gives it to self.executor
        self.write(f"{number} done\n")

    async def post(self) -> None:
        number = self.number()
        await asyncio.get_running_loop().run_in_executor(self.executor, self.job, number)  # asyncio's way
        self.write(f"{number} done\n")


async def serve(options: Options, sockets: list[socket]) -> None:
    HTTPServer(Application([("/", Stage, {"job": options.job})])).add_sockets(sockets)
    await asyncio.Event().wait()


def main(options: Options) -> None:
    sockets = bind_sockets(options.port, "127.0.0.1")
    asyncio.run(serve(options, sockets))
