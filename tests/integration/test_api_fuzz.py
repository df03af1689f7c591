"""A few generated requests over real sockets; `make test-api-fuzz` sends 10,000."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.keys import SCOPES
from tests.fuzzing.fuzz_run import fuzz
from tests.fuzzing.fuzzed_door import serving

pytestmark = pytest.mark.integration

N_CASES = 150


def test_generated_requests_are_answered_as_the_interface_says(tmp_path: Path) -> None:
    """No 500, no answer that the OpenAPI does not have, and no way in without the right scope."""
    with serving(tmp_path, keys=True) as door:
        everything = fuzz(door.url, N_CASES, 1, door.keys["all"], set(SCOPES))
        nothing = fuzz(door.url, N_CASES // 5, 2, None, set())
        little = fuzz(door.url, N_CASES // 5, 3, door.keys["events"], {"events"})
    assert everything.failures == nothing.failures == little.failures == []
    assert nothing.let_in == little.let_in == []
    assert everything.n_cases >= N_CASES
    statuses = {name.rpartition(" ")[2] for name in everything.statuses}
    assert {"200", "202", "400", "422"} <= statuses
