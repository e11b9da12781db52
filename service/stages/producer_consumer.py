"""producer_consumer: answer first, run the job afterwards. How long a job takes is no longer the client's affair.

What it still lacks: a crash loses every job that waits or runs, and a process of the pool that dies is a crash; a job
that fails is tried for ever, and nobody learns the result of one that does not; the buffer has no bound; its consumer
cannot be started before a fork, see forked_consumer."""

import asyncio
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.queues import Queue
from tornado.web import Application

from service.stages.shared import Handler, Options, end_with_server

buffer: Queue[object] = Queue()
futures: dict[Future[None], object] = {}


class Stage(Handler):
    async def get(self) -> None:
        number = self.number()
        await buffer.put(number)
        self.write(f"{number} add\n")  # before the job has begun


async def consume(options: Options) -> None:
    executor = ThreadPoolExecutor(20) if options.pool == "thread" else ProcessPoolExecutor(20, None, end_with_server)
    async for number in buffer:
        futures[executor.submit(options.job, number)] = number  # a Job can be pickled: its class is at the top level


async def collect() -> None:
    while True:
        await asyncio.sleep(2)
        for future in [future for future in futures if future.done()]:
            number = futures.pop(future)
            if future.exception():
                await buffer.put(number)  # once more, and so on


async def serve(options: Options, sockets: list[socket]) -> None:
    HTTPServer(Application([("/", Stage, {"job": options.job})])).add_sockets(sockets)
    await asyncio.gather(consume(options), collect())


def main(options: Options) -> None:
    sockets = bind_sockets(options.port, "127.0.0.1")
    asyncio.run(serve(options, sockets))
