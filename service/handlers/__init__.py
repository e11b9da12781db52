"""HTTP in, one backlog call, HTTP out. No rules here: those are in registry, retry and the engines.

The contract is in `routes`, and at /docs.
"""

from __future__ import annotations

import msgspec
from tornado.routing import Rule
from tornado.web import Application, RequestHandler

from service import registry
from service.handlers import docs, openapi
from service.handlers.base import Server
from service.handlers.door import Door
from service.handlers.fixed import Fixture, fixture
from service.handlers.ndjson import Ndjson, PostsNdjson
from service.handlers.operate import Nothing
from service.handlers.page import policy
from service.handlers.routes import ROUTES

__all__ = ["Server", "front_door"]


def front_door(server: Server) -> Door:
    """Where every request comes in."""
    return Door(server, application(server))


def application(server: Server) -> Application:
    return Application(
        [
            Rule(PostsNdjson(r"/jobs"), Ndjson),  # before the route of the same address
            *((route.pattern, route.handler) for route in ROUTES),
        ],
        default_handler_class=Nothing,
        server=server,
        fixtures=fixtures(),
        log_function=_no_access_log,
    )


def fixtures() -> dict[str, Fixture]:
    document = openapi.document(ROUTES, registry.functions())
    page = docs.page(document)
    html = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy(page.decode())}
    return {
        "openapi": fixture(msgspec.json.encode(document), {"Content-Type": "application/json"}),
        "docs": fixture(page, html),
    }


def _no_access_log(handler: RequestHandler) -> None:
    """nginx writes it, with the same request id."""
