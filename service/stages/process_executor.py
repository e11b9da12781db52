"""process_executor: twenty processes. Computing leaves the server; every core works."""

import asyncio
from concurrent.futures import ProcessPoolExecutor
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from service.stages.shared import Handler, Job, Options, end_with_server


def work(job: Job, number: object) -> None:
    # At the top level of a module, since what travels to the other process is a pickle: the function's name, and its
    # arguments. A method would take its handler along, with an open socket; a lambda or an inner function has no
    # name that the other process could import.
    job(number)  # blocks one process


class Stage(Handler):
    executor: ProcessPoolExecutor

    async def get(self) -> None:
        number = self.number()
        await asyncio.get_running_loop().run_in_executor(self.executor, work, self.job, number)
        self.write(f"{number} done\n")


async def serve(options: Options, sockets: list[socket]) -> None:
    # Here, not in the class: where processes do not start by fork, they import this module too.
    Stage.executor = ProcessPoolExecutor(20, initializer=end_with_server)
    HTTPServer(Application([("/", Stage, {"job": options.job})])).add_sockets(sockets)
    await asyncio.Event().wait()


def main(options: Options) -> None:
    sockets = bind_sockets(options.port, "127.0.0.1")
    asyncio.run(serve(options, sockets))
