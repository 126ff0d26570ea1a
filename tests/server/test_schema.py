"""The server keeps what its OpenAPI document promises, whatever it is sent."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def api(server) -> object:
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


lazy = schemathesis.pytest.from_fixture("api")


@lazy.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_a_documented_one(case):
    response = case.call(timeout=60)
    # Whether a valid body is accepted depends on the model: its context, its vocabulary.
    skipped = [c for c in checks.CHECKS.get_all() if c.__name__ == "positive_data_acceptance"]
    case.validate_response(response, excluded_checks=skipped)


def test_nothing_is_left_in_the_cache_at_the_end(server):
    server.wait_until_idle()
    server.llm.engine.runner.cache.check_invariants()
