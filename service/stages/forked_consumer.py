"""An experiment: producer_consumer under `start(0)`, its consumer started before the fork, as it was at first.

Touching the event loop makes it, with one epoll in the kernel, and fork gives that same epoll to every child. The first
child registers the listening socket there. The other finds it registered already, and dies; it is forked again, until
the parent gives up, and would leave the first one behind. The way out is to fork first and to start a consumer in each
child, as `service` does."""

import warnings
from concurrent.futures import ThreadPoolExecutor

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.process import fork_processes
from tornado.web import Application

from service.stages.producer_consumer import Stage, buffer
from service.stages.shared import Options

warnings.simplefilter("ignore", DeprecationWarning)  # Tornado warns of just this


async def consume(options: Options) -> None:
    executor = ThreadPoolExecutor(20)
    async for number in buffer:
        executor.submit(options.job, number)


def main(options: Options) -> None:
    IOLoop.current().spawn_callback(consume, options)  # makes the loop
    sockets = bind_sockets(options.port, "127.0.0.1")
    fork_processes(2, max_restarts=3)  # too late
    HTTPServer(Application([("/", Stage, {"job": options.job})])).add_sockets(sockets)
    IOLoop.current().start()
