"""What `cluster evaluate` hands to the job, with --off-policy and without."""

from __future__ import annotations

from typing import Any

import click
import pytest

from cluster.__main__ import run
from cluster.learning_commands import evaluation_arguments

OF_TABLE = ("protocol", "against", "cuts", "negatives")
OF_LOG = ("kind", "positions", "since")
NOTHING: dict[str, Any] = dict.fromkeys((*OF_TABLE, *OF_LOG)) | {
    "no_tune_baselines": False,
    "off_policy": False,
}
FROM_LOG = NOTHING | {"off_policy": True}


def test_options_that_were_given_are_passed_on() -> None:
    """The bundle and its options; what was left out is left to the job."""
    given = FROM_LOG | {"kind": "click", "positions": 3, "since": "2026-01-31"}
    assert evaluation_arguments(None, FROM_LOG) == ["off-policy"]
    assert evaluation_arguments("b1", given) == [
        "off-policy", "b1", "--kind", "click", "--positions", "3", "--since", "2026-01-31",
    ]  # fmt: skip
    assert evaluation_arguments(None, NOTHING) == ["evaluate"]
    table = NOTHING | {"protocol": "time", "cuts": 3, "no_tune_baselines": True}
    assert evaluation_arguments("b1", table) == [
        "evaluate", "b1", "--protocol", "time", "--cuts", "3", "--no-tune-baselines",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*OF_TABLE, "no_tune_baselines"])
def test_options_of_the_offline_table_are_refused_with_off_policy(name: str) -> None:
    """They would change nothing, so they are not swallowed."""
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(click.UsageError, match=f"{option} belongs to the offline table"):
        evaluation_arguments("b1", FROM_LOG | {name: True})


@pytest.mark.parametrize("name", OF_LOG)
def test_options_of_the_log_are_refused_without_off_policy(name: str) -> None:
    """Likewise."""
    with pytest.raises(click.UsageError, match=f"--{name} is of --off-policy, which was not given"):
        evaluation_arguments("b1", NOTHING | {name: "x"})


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--kind", "click"], "--kind"),
        (["--off-policy", "--protocol", "time"], "--protocol"),
        (["--off-policy", "--no-tune-baselines"], "--no-tune-baselines"),
    ],
)
def test_the_command_line_answers_with_exit_code_2_and_the_option(
    words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where the default was spelled out."""
    assert run(["evaluate", *words]) == 2
    assert option in capsys.readouterr().err
