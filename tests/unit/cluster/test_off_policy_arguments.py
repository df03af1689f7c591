"""What `cluster evaluate --off-policy` hands to the job."""

from __future__ import annotations

import click
import pytest

from cluster.learning_commands import off_policy_arguments

NOTHING = dict.fromkeys(("against", "cuts", "negatives", "kind", "positions", "since"))


def test_options_that_were_given_are_passed_on() -> None:
    """The bundle and its options; what was left out is left to the job."""
    given = NOTHING | {"kind": "click", "positions": 3, "since": "2026-01-31"}
    assert off_policy_arguments(None, NOTHING) == ["off-policy"]
    assert off_policy_arguments("b1", given) == [
        "off-policy", "b1", "--kind", "click", "--positions", "3", "--since", "2026-01-31",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["against", "cuts", "negatives"])
def test_options_of_the_offline_table_are_refused(name: str) -> None:
    """They would change nothing, so they are not swallowed."""
    with pytest.raises(click.UsageError, match=f"--{name} belongs to the offline table"):
        off_policy_arguments("b1", NOTHING | {name: "x"})
