"""/openapi.json: what the routes and the registered functions say of themselves, as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from service import __version__
from service.handlers import signature
from service.handlers.answers import Problem
from service.handlers.body import SAYING_THE_SAME, Submission
from service.handlers.fixed import Fixed
from service.handlers.operation import STREAMS, Answer, Content, Fault, Operation, Parameter, Route
from service.handlers.signature import SCHEMAS, Schema
from service.registry import Function

ABOUT = """Takes a flood of job requests, puts each safely on disk before it answers, and runs registered Python \
functions on process pools.

A `2xx` means: accepted, and on disk. A time-out, `502` or `504` means: unknown; repeat the request with the same \
`Idempotency-Key`. Anything else means: nothing was stored. Problems are `application/problem+json` (RFC 9457); what \
has a `Retry-After` may be tried again then. Every answer has an `X-Request-ID`: the request's own, where that is plain.

`HEAD` is answered wherever `GET` is, the stream of events aside. Another method than those described is answered \
`405`, with `Allow`; an address that is not described, `404`."""

PROBLEM = "application/problem+json"
RETRY_LATER = (429, 503, 507)

HEADERS: dict[str, tuple[str, Schema]] = {
    "X-Request-ID": ("the request's own, or one made here; the log has it", {"pattern": "^[A-Za-z0-9-]{1,64}$"}),
    "Location": ("where the job is followed", {"pattern": "^/jobs/"}),
    "ETag": ("of this state of it, for If-None-Match", {}),
    "Link": ('the next page, as `rel="next"`', {}),
    "Preference-Applied": ("what was made of Prefer", {"pattern": "^wait=[0-9]+$"}),
    "Idempotency-Replayed": ("the job was here already, for the same Idempotency-Key", {"const": "true"}),
    "Retry-After": ("seconds", {"pattern": "^[0-9]+$"}),
}


class OpenApi(Fixed):
    name = "openapi"


def document(routes: Sequence[Route], functions: Sequence[Function]) -> dict[str, Any]:
    schemas = Schemas(routes, functions)
    operations = [operation for route in routes for operation in route.operations.values()]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stormdrain",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "security": [{}, {"key": []}],
        "paths": {
            route.path: {method: describe(it, schemas) for method, it in route.operations.items()} for route in routes
        },
        "components": {
            "schemas": schemas.components,
            "responses": problems(operations),
            "headers": {"X-Request-ID": header("X-Request-ID")},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "id.secret",
                    "description": "needed where the operator has set API_KEYS_FILE",
                }
            },
        },
    }


class Schemas:
    """The schema of everything that goes in or out. What has a name is a component, and is referred to."""

    def __init__(self, routes: Iterable[Route], functions: Iterable[Function]) -> None:
        kinds = [content.kind for content in contents(routes) if content.kind is not None]
        found, self.components = msgspec.json.schema_components([*kinds, Problem], ref_template=f"{SCHEMAS}{{name}}")
        self._by_kind = dict(zip(map(id, kinds), found, strict=False))
        self.examples: dict[str, Schema] = {}
        self._add_functions(functions)

    def _add_functions(self, functions: Iterable[Function]) -> None:
        names = {}
        for function in functions:
            self.components |= signature.components(function)
            names[function.name] = f"{SCHEMAS}{signature.submission_name(function)}"
            if example := signature.example(function, self.components):
                self.examples[function.name] = example
        self.components["Submission"]["allOf"] = [not_both(*names) for names in SAYING_THE_SAME]
        self.components["Submit"] = {
            "description": "One of the functions that are registered here, and what is asked of it.",
            "oneOf": [{"$ref": reference} for reference in names.values()],
            "discriminator": {"propertyName": "job", "mapping": names},
        }

    def of(self, kind: Any) -> Schema:
        return {"$ref": f"{SCHEMAS}Submit"} if kind is Submission else self._by_kind[id(kind)]


def contents(routes: Iterable[Route]) -> Iterable[Content]:
    for route in routes:
        for operation in route.operations.values():
            yield from operation.bodies
            for answer in operation.answers.values():
                yield from answer.contents


def not_both(*names: str) -> Schema:
    given = {"not": {"type": "null"}}
    return {"not": {"required": list(names), "properties": {name: given for name in names}}}


def describe(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    answers = {str(status): respond(answer, schemas) for status, answer in operation.answers.items()}
    refusals = {
        str(status): {"$ref": f"#/components/responses/{name}"} for status, name, _ in by_status(operation.faults)
    }
    described = {
        "operationId": operation.id,
        "summary": operation.summary,
        "description": operation.sentence,
        "tags": [operation.tag],
        "parameters": [parameter(it) for it in operation.parameters],
        "responses": answers | refusals,
    }
    if operation.bodies:
        bodies = {body.media: content(body, schemas) for body in operation.bodies}
        described["requestBody"] = {"required": operation.body_required, "content": bodies}
    return described


def parameter(it: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {"name": it.name, "in": it.where, "description": it.sentence, "schema": it.schema}
    if it.required:
        described["required"] = True
    return described if it.example is None else described | {"example": it.example}


def respond(answer: Answer, schemas: Schemas) -> dict[str, Any]:
    headers = {name: header(name, required=True) for name in answer.headers}
    described: dict[str, Any] = {
        "description": answer.sentence,
        "headers": headers | {name: header(name) for name in answer.maybe} | REQUEST_ID,
    }
    if answer.contents:
        described["content"] = {it.media: content(it, schemas) for it in answer.contents}
    if answer.links:
        described["links"] = {
            id: {"operationId": id, "parameters": {"id": where}} for id, where in answer.links.items()
        }
    return described


def content(it: Content, schemas: Schemas) -> dict[str, Any]:
    if it.media in STREAMS:  # itemSchema is OpenAPI 3.2's
        described: dict[str, Any] = {"schema": {"type": "string"}, "x-itemSchema": schemas.of(it.kind)}
    else:
        described = {"schema": schemas.of(it.kind) if it.kind is not None else {"type": "string"}}
    examples = it.examples or (schemas.examples if it.kind is Submission else {})
    if examples:
        described["examples"] = {name: {"value": msgspec.to_builtins(value)} for name, value in examples.items()}
    return described


def header(name: str, required: bool = False) -> dict[str, Any]:
    sentence, schema = HEADERS[name]
    described = {"description": sentence, "schema": {"type": "string"} | schema}
    return described | {"required": True} if required else described


REQUEST_ID = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}


def by_status(faults: Iterable[Fault]) -> list[tuple[int, str, list[Fault]]]:
    """(status, name of the response, its faults): what has the same faults has the same name."""
    found = []
    for status, group in groupby(sorted(set(faults)), key=lambda fault: fault.status):
        some = list(group)
        found.append((status, f"{status}.{'.'.join(fault.slug for fault in some)}", some))
    return found


def problems(operations: Iterable[Operation]) -> dict[str, Any]:
    return {
        name: problem(status, faults)
        for operation in operations
        for status, name, faults in by_status(operation.faults)
    }


def problem(status: int, faults: Sequence[Fault]) -> dict[str, Any]:
    types = [f"/problems/{fault.slug}" for fault in faults]
    narrow = {"type": {"enum": types}, "status": {"const": status}}
    headers: Mapping[str, Any] = {"Retry-After": header("Retry-After", status in RETRY_LATER)} if status > 428 else {}
    return {
        "description": "; or: ".join(fault.title for fault in faults),
        "headers": {**headers, **REQUEST_ID},
        "content": {PROBLEM: {"schema": {"allOf": [{"$ref": f"{SCHEMAS}Problem"}], "properties": narrow}}},
    }
