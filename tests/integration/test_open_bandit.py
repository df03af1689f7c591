"""Off-policy estimators on the logs of two real policies, where a copy lies beside the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.bandit_folder import choice_frequencies, read_rounds
from bench.off_policy_table import both_directions
from recsys.errors import DataError
from recsys.off_policy.ratio_estimate import Bootstrap

pytestmark = pytest.mark.integration
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "open-bandit"


@pytest.fixture(scope="module")
def directions() -> list[dict[str, Any]]:
    """Both policies from each other's log."""
    if not DATA.exists():
        pytest.skip(f"data set {DATA.name} is not beside the checkout")
    uniform, bandit = (read_rounds(DATA / name / "men") for name in ("random", "bts"))
    return both_directions(uniform, bandit, Bootstrap(n_resamples=200))


def test_weighing_gives_the_published_value_and_effective_size(
    directions: list[dict[str, Any]],
) -> None:
    """From the bandit's log to the uniform policy: IPS .0030 at an ESS of 656, which is refused."""
    found = directions[1]
    estimates = {one["name"]: one["value"] for one in found["estimates"]}
    assert estimates["IPS"] == pytest.approx(0.0030, abs=5e-5)
    assert found["support"]["ess"] == pytest.approx(656, abs=1)
    assert "effective sample size of 10,000 rounds is 655.7" in found["support"]["reasons"][0]
    assert found["truth"]["value"] == pytest.approx(0.0046)


def test_intervals_hold_the_truth_where_the_log_supports_the_target(
    directions: list[dict[str, Any]],
) -> None:
    """From the uniform log to the bandit: supported, and all but the bare model cover the truth."""
    found = directions[0]
    assert found["support"]["is_supported"]
    for one in found["estimates"]:
        covers = one["low"] <= found["truth"]["value"] <= one["high"]
        assert covers or one["name"] == "DM", one
        if one["name"] != "DM":
            assert one["relative_error"] < 0.25, one


def test_choices_add_up_and_a_wrong_folder_is_said(tmp_path: Path) -> None:
    """A policy's choices are probabilities; a folder without a log is refused by name."""
    if not DATA.exists():
        pytest.skip(f"data set {DATA.name} is not beside the checkout")
    rounds = read_rounds(DATA / "bts" / "men")
    choices = choice_frequencies(rounds)
    assert choices.shape == (3, rounds.n_items)
    np.testing.assert_allclose(choices.sum(axis=1), 1.0)
    assert (choices > 0.0).all()
    assert len(rounds.head(10).chosen) == 10
    with pytest.raises(DataError, match="has 0 files of rounds"):
        read_rounds(tmp_path)
