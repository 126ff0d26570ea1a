"""The server keeps what its OpenAPI document promises, whatever it is sent."""

from __future__ import annotations

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from server.running import Running

OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{model}", "GET"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/health", "GET"),
    ("/metrics", "GET"),
]
PROMISES = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
# Whether a valid body is accepted depends on the model: its context, its vocabulary.
LEFT_OUT = [checks.positive_data_acceptance]


@pytest.fixture(scope="module")
def schema(server: Running) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


def test_the_document_names_every_route(schema):
    operations = [(o.ok().path, o.ok().method.upper()) for o in schema.get_all_operations()]
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_a_documented_one(schema, path, method, mode):
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("nothing in it can be wrong")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=30 if method == "POST" else 3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and "completions" in path:
            case.body.setdefault("max_tokens", 4)  # else a chat goes on as long as there is room
        case.call_and_validate(
            session=session, additional_checks=PROMISES, excluded_checks=LEFT_OUT, timeout=60
        )

    with requests.Session() as session:
        send()


def test_nothing_is_left_in_the_cache_at_the_end(server):
    server.wait_until_idle()
    server.llm.engine.runner.cache.check_invariants()
