"""HTTP in, one backlog call, HTTP out. No rules here: those are in registry, retry and the engines.

The contract is in `routes`, and at /docs.
"""

from __future__ import annotations

import hashlib

import msgspec
from tornado.web import Application, RequestHandler

from service import registry
from service.handlers import openapi
from service.handlers.base import Server
from service.handlers.operate import Nothing
from service.handlers.routes import ROUTES

__all__ = ["Server", "application"]


def application(server: Server) -> Application:
    return Application(
        [(route.pattern, route.handler) for route in ROUTES],
        default_handler_class=Nothing,
        server=server,
        described=described(),
        log_function=_no_access_log,
    )


def described() -> dict[str, tuple[bytes, str]]:
    """(body, ETag) of the contract as JSON and as a page."""
    document = openapi.document(ROUTES, registry.functions())
    bodies = {"openapi": msgspec.json.encode(document), "docs": b""}
    return {name: (body, f'"{hashlib.sha256(body).hexdigest()[:16]}"') for name, body in bodies.items()}


def _no_access_log(handler: RequestHandler) -> None:
    """nginx writes it, with the same request id."""
