"""/docs: /openapi.json as a page. Whatever stands in the document is escaped, a function's docstring too."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from tornado.escape import xhtml_escape as escape
from tornado.template import Loader

from service.handlers.fixed import Fixed
from service.handlers.operation import EVENTS, JSON
from service.handlers.page import FOLDER
from service.handlers.signature import SCHEMAS, Schema

HERE = "localhost:8080"
TEMPLATE = Loader(str(FOLDER)).load("docs.html")
FORMATS = {"date-time": "RFC 3339", "uri": "a URL"}
# Longer patterns and larger numbers say nothing to people.
PATTERN_MAX = 40  # characters
NUMBER_MAX = 1e12


class Docs(Fixed):
    name = "docs"


def page(document: dict[str, Any]) -> bytes:
    schemas: dict[str, Schema] = document["components"]["schemas"]
    submit = document["paths"]["/jobs"]["post"]["requestBody"]["content"][JSON]
    html: bytes = TEMPLATE.generate(
        document=document,
        schemas=schemas,
        functions=[reference["$ref"].removeprefix(f"{SCHEMAS}Submit.") for reference in schemas["Submit"]["oneOf"]],
        examples=submit.get("examples", {}),
        operations=list(operations(document)),
        here=HERE,
        **{helper.__name__: helper for helper in HELPERS},
    )
    return html


class Described(NamedTuple):
    """An operation, and where it is found."""

    method: str
    path: str
    it: dict[str, Any]


def operations(document: dict[str, Any]) -> Iterator[Described]:
    for path, methods in document["paths"].items():
        for method, it in methods.items():
            yield Described(method.upper(), path, it)


class Member(NamedTuple):
    """A member of an object, as a line of a table. `kind` is HTML."""

    name: str
    kind: str
    required: bool
    default: str
    sentence: str


def members(schema: Schema) -> list[Member]:
    required = schema.get("required", ())
    return [
        Member(name, says(member), name in required, default(member), member.get("description", ""))
        for name, member in schema.get("properties", {}).items()
    ]


def inside(schema: Schema, schemas: dict[str, Schema]) -> list[Member]:
    """The members of what is referred to; of a choice, those that all have."""
    named = schemas[schema["$ref"].removeprefix(SCHEMAS)]
    return members(schemas["Submission"] if "oneOf" in named else named)


def default(schema: Schema) -> str:
    return json.dumps(schema["default"], ensure_ascii=False) if schema.get("default") is not None else ""


def says(schema: Schema) -> str:
    """A schema in words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(SCHEMAS))
        return f'<a href="#{name}">{name}</a>'
    if alternatives := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(says(one) for one in alternatives)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"<code>{escape(str(one))}</code>" for one in schema.get("enum", [schema.get("const")]))
    match schema.get("type", "anything"):
        case "array":
            return f"list of {says(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"{says(schema['additionalProperties'])} by name"
        case "string":
            return f"text{_texts(schema)}"
        case "integer" | "number" as kind:
            return f"{'whole number' if kind == 'integer' else 'number'}{_bounds(schema)}"
        case kind:
            return escape(str(kind))


def _texts(schema: Schema) -> str:
    """What a text must be like."""
    found = FORMATS.get(schema.get("format", ""), schema.get("format", ""))
    pattern = schema.get("pattern", "")
    if pattern and len(pattern) <= PATTERN_MAX:
        found = f"{found} <code>{escape(pattern)}</code>"
    if "maxLength" in schema:
        found = f"{found} up to {schema['maxLength']} characters"
    return f", {found.strip()}" if found else ""


def _bounds(schema: Schema) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    told = {word: schema[word] for word in words if word in schema and abs(schema[word]) < NUMBER_MAX}
    return "".join(f" {words[word]} {bound:,.12g}" for word, bound in told.items())


def mark(text: str) -> str:
    """Text as HTML: what is between backticks is code, an empty line ends a paragraph."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)).replace("\n\n", "</p><p>")


def pretty(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Found(NamedTuple):
    """A problem, and with which statuses it comes."""

    title: str
    statuses: list[str]


def problems(document: dict[str, Any]) -> dict[str, Found]:
    """Every problem, by its slug."""
    found: dict[str, Found] = {}
    for name, answer in sorted(document["components"]["responses"].items()):
        for slug, title in zip(slugs(answer), answer["description"].split("; or: "), strict=True):
            statuses = found.setdefault(slug, Found(title, [])).statuses
            statuses += [] if name[:3] in statuses else [name[:3]]
    return dict(sorted(found.items()))


def slugs(answer: dict[str, Any]) -> list[str]:
    (content,) = answer["content"].values()
    return [type.rpartition("/")[2] for type in content["schema"]["properties"]["type"]["enum"]]


def refusals(document: dict[str, Any], operation: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(status, slugs) of each."""
    answers = document["components"]["responses"]
    return [
        (status, slugs(answers[answer["$ref"].rpartition("/")[2]]))
        for status, answer in operation["responses"].items()
        if "$ref" in answer
    ]


def curl(described: Described) -> str:
    """A command that does it."""
    method, path, it = described
    streams = any(EVENTS in answer.get("content", ()) for answer in it["responses"].values())
    words = ["curl", "-N" if streams else "-i"]
    body = example(it)
    if method != ("GET" if body is None else "POST"):
        words += ["-X", method]
    for parameter in it["parameters"]:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
    words.append(f"{HERE}{path}")
    return (
        " ".join(words) if body is None else f"{' '.join(words)} -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def example(operation: dict[str, Any]) -> Any:
    """The first body that it gives."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for example in content.get("examples", {}).values():
            return example["value"]
    return None


HELPERS = (compact, curl, default, inside, mark, members, pretty, problems, refusals, says, shlex.quote)
