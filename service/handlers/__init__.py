"""HTTP in, one backlog call, HTTP out. No rules here: those are in registry, retry and the engines.

The contract is in the README.
"""

from __future__ import annotations

from tornado.web import Application, RequestHandler

from service.handlers.base import Server
from service.handlers.events import Events
from service.handlers.jobs import JobById, Jobs, Retry, RetryMany
from service.handlers.metrics import Metrics
from service.handlers.operate import Health, Nothing, Ready, Stats
from service.handlers.original import Root

__all__ = ["Server", "application"]

JOB_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"


def application(server: Server) -> Application:
    return Application(
        [
            (r"/", Root),
            (r"/jobs", Jobs),
            (r"/jobs/retry", RetryMany),
            (rf"/jobs/({JOB_ID})", JobById),
            (rf"/jobs/({JOB_ID})/retry", Retry),
            (rf"/jobs/({JOB_ID})/events", Events),
            (r"/stats", Stats),
            (r"/healthz", Health),
            (r"/readyz", Ready),
            (r"/metrics", Metrics),
        ],
        default_handler_class=Nothing,
        server=server,
        log_function=_no_access_log,
    )


def _no_access_log(handler: RequestHandler) -> None:
    """nginx writes it, with the same request id."""
