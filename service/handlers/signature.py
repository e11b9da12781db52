"""A registered function as others see it: the schema of its arguments, of the submission that runs it, an example."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import msgspec

from service.errors import BadArguments
from service.registry import Function

Schema = dict[str, Any]

SCHEMAS = "#/components/schemas/"
TEXTS = {
    "date-time": "2030-01-01T00:00:00Z",
    "date": "2030-01-01",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "uuid": "01a20c6c-af1c-74e0-b64a-700998b5b2c8",
}


def submission_name(function: Function) -> str:
    return f"Submit.{function.name}"


def components(function: Function) -> dict[str, Schema]:
    """By name. A class of its annotations is named after the function too: two modules may have one of the same name,
    and a registered function must not be able to change what is said of another."""
    tail = f"-of-{function.name}"
    (reference,), found = msgspec.json.schema_components([function.arguments], ref_template=f"{SCHEMAS}{{name}}{tail}")
    arguments = found.pop(reference["$ref"].removeprefix(SCHEMAS).removesuffix(tail))
    _show_defaults(function, arguments["properties"])
    return {
        submission_name(function): _submission(function, bool(arguments["required"])),
        f"Arguments.{function.name}": arguments,
        **{f"{name}{tail}": schema for name, schema in found.items()},
    }


def _submission(function: Function, needs_arguments: bool) -> Schema:
    """What POST /jobs takes for this one, beyond what it takes for all."""
    return {
        "title": function.name,
        "description": inspect.getdoc(function.call) or "",
        "allOf": [{"$ref": f"{SCHEMAS}Submission"}],
        "properties": {
            "job": {"const": function.name},
            "args": {"$ref": f"{SCHEMAS}Arguments.{function.name}"},
            "timeout": {"default": function.timeout},
            "attempts": {"default": function.attempts},
        },
        "required": ["job", "args"] if needs_arguments else ["job"],
    }


def _show_defaults(function: Function, properties: dict[str, Schema]) -> None:
    for name, parameter in inspect.signature(function.call).parameters.items():
        if name in properties and parameter.default is not parameter.empty:
            with suppress(TypeError, ValueError, OverflowError):  # a default that is no JSON is the function's own
                properties[name]["default"] = msgspec.json.decode(msgspec.json.encode(parameter.default))


def example(function: Function, schemas: dict[str, Schema]) -> Schema | None:
    """A submission with what this function needs; None where its annotations ask for more than types do."""
    args = sample(schemas[f"Arguments.{function.name}"], schemas)
    try:
        function.check(args)
    except BadArguments:
        return None
    return {"job": function.name, "args": args}


def sample(schema: Schema, schemas: dict[str, Schema]) -> Any:
    """A value of this schema, where types, bounds and lengths tell it."""
    if "$ref" in schema:
        return sample(schemas[schema["$ref"].removeprefix(SCHEMAS)], schemas)
    for word in ("examples", "enum", "anyOf", "allOf"):
        if word in schema:
            first = schema[word][0]
            return first if word in ("examples", "enum") else sample(first, schemas)
    match schema.get("type"):
        case "object":
            members = schema.get("properties", {})
            return {name: sample(members[name], schemas) for name in schema.get("required", ())}
        case "array":
            items = schema.get("prefixItems", [schema.get("items", {})] * schema.get("minItems", 0))
            return [sample(item, schemas) for item in items]
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return TEXTS.get(schema.get("format", ""), "text".ljust(schema.get("minLength", 0), "."))


def _number(schema: Schema) -> Any:
    step = schema.get("multipleOf", 1)
    if "minimum" in schema or "exclusiveMinimum" in schema:
        return max(schema.get("minimum", -1e308), schema.get("exclusiveMinimum", -1e308) + step)
    if "maximum" in schema or "exclusiveMaximum" in schema:
        return min(schema.get("maximum", 1e308), schema.get("exclusiveMaximum", 1e308) - step, step)
    return step
