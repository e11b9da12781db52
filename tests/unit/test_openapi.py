"""The description of the contract is well formed, whole, and made of what is checked and sent."""

from __future__ import annotations

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import service.jobs
from service import registry
from service.errors import Refused, StormdrainError
from service.handlers import openapi
from service.handlers.body import Submission, parse
from service.handlers.operate import Nothing
from service.handlers.routes import ROUTES

assert service.jobs


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    import msgspec

    functions = [registry.find(name) for name in ("sleep", "noop", "primes", "flaky")]
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(openapi.document(ROUTES, functions)))
    return document


def test_it_is_openapi_as_its_authors_define_it(described: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(described).validate()


def test_every_method_of_every_address_is_described(described: dict[str, Any]) -> None:
    for route in ROUTES:
        served = {method.lower() for method in route.handler.methods} - {"head"}
        assert served == set(described["paths"][route.path]), route.path
    assert Nothing not in [route.handler for route in ROUTES]


def test_every_refusal_is_described_somewhere(described: dict[str, Any]) -> None:
    def kinds(error: type[StormdrainError]) -> set[type[StormdrainError]]:
        return {error}.union(*map(kinds, error.__subclasses__()))

    told = str(described["components"]["responses"])
    unsaid = {kind.slug for kind in kinds(Refused) if f"/problems/{kind.slug}'" not in told}
    # The first is never raised itself; what no address describes is said in the text above them all.
    assert unsaid == {"refused", "wrong-method", "shutting-down"} & unsaid | {"refused", "wrong-method"}


def test_its_examples_of_a_submission_are_submissions(described: dict[str, Any]) -> None:
    import msgspec

    content = described["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert {name for name in content["examples"]} == {"sleep", "noop", "primes", "flaky"}
    for example in content["examples"].values():
        submission = parse(msgspec.json.encode(example["value"]), Submission)
        registry.find(submission.job).check(submission.args)
