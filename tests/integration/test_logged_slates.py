"""Slates of the lake with their rewards: what counts, what is worth how much, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.example_lake import HOUR, MINUTE, NOON, a_lake, an_engagement, an_impression
from train_app.off_policy.logged_slates import LoggedSlates, read_logged_slates

pytestmark = pytest.mark.integration
LATER = NOON + 5 * HOUR


def slates_of(
    data_dir: Path, impressions: list[dict[str, Any]], acts: list[dict[str, Any]], **options: Any
) -> LoggedSlates:
    """What is read of a lake of these rows; a last act far later closes every window."""
    last = an_engagement("nobody", "nothing", LATER)
    settings = a_lake(data_dir, impressions=impressions, engagements=[*acts, last])
    return read_logged_slates(settings, now_ms=LATER + 1, **options)


def test_rewards_stand_at_their_positions_by_the_worth_of_their_kind(tmp_path: Path) -> None:
    """A click is 1, a dismissal -1, a view nothing; late and unshown ones do not count."""
    shown = [
        an_impression("u", ["a", "b", "c"], NOON, unshown=["x", "y"]),
        an_impression("v", ["a"], NOON + MINUTE, bundle_id="b2"),
    ]
    acts = [
        an_engagement("u", "a", NOON + MINUTE, request_id=f"r-u-{NOON}"),
        an_engagement("u", "a", NOON + MINUTE, kind="like"),
        an_engagement("u", "b", NOON + MINUTE, kind="dismiss"),
        an_engagement("u", "c", NOON + MINUTE, kind="view"),
        an_engagement("u", "x", NOON + MINUTE),
        an_engagement("v", "a", NOON + 3 * HOUR),
    ]
    found = slates_of(tmp_path, shown, acts)
    assert found.rewards.tolist() == [[2.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    assert found.records.lengths.tolist() == [3, 1]
    assert found.records.propensities.tolist() == [[0.9, 0.9, 0.9], [0.9, 1.0, 1.0]]
    assert found.records.scores[0].tolist() == [1.0, 0.9, 0.8]
    assert found.records.best_unshown[0] == 0.1
    assert np.isnan(found.records.best_unshown[1])
    assert [found.bundle_ids[number] for number in found.bundles] == ["b1", "b2"]
    assert found.event_ids.tolist() == [f"i-u-{NOON}", f"i-v-{NOON + MINUTE}"]


def test_one_kind_can_be_all_that_counts(tmp_path: Path) -> None:
    """With a kind the reward is whether there was one."""
    acts = [
        an_engagement("u", "a", NOON + MINUTE, kind="like"),
        an_engagement("u", "b", NOON + MINUTE, kind="click"),
        an_engagement("u", "b", NOON + 2 * MINUTE, kind="click"),
    ]
    found = slates_of(tmp_path, [an_impression("u", ["a", "b"], NOON)], acts, kind="click")
    assert found.rewards.tolist() == [[0.0, 1.0]]


def test_slates_that_no_policy_chose_are_left_out_and_counted(tmp_path: Path) -> None:
    """Stages that were away, empty slates, propensities of nothing, windows still open."""
    broken = an_impression("u", ["a"], NOON + 4 * MINUTE)
    broken["slate"][0]["propensity"] = 0.0
    shown = [
        an_impression("u", ["a"], NOON),
        an_impression("u", ["a"], NOON + MINUTE, degraded=["scorer: timeout"]),
        an_impression("u", ["a"], NOON + 2 * MINUTE, degraded=["ordering: timeout"]),
        an_impression("u", [], NOON + 3 * MINUTE),
        broken,
        an_impression("u", ["a"], LATER - MINUTE),
    ]
    found = slates_of(tmp_path, shown, [])
    assert len(found) == 1
    assert found.left_out == {"empty": 1, "no_propensity": 1, "stage_away": 2, "window_open": 1}


def test_a_range_of_time_and_the_first_positions_can_be_asked_for(tmp_path: Path) -> None:
    """Earlier slates are not read; what stands below the cut was not shown above it."""
    shown = [
        an_impression("u", ["a", "b", "c"], NOON, unshown=["x"]),
        an_impression("u", ["a", "b"], NOON + HOUR),
    ]
    found = slates_of(tmp_path, shown, [], since_ms=NOON, until_ms=NOON + HOUR + 1)
    assert len(found) == 1
    head = found.head(2)
    assert head.records.scores.tolist() == [[1.0, 0.9]]
    assert head.records.best_unshown.tolist() == [0.8]
    assert head.records.lengths.tolist() == [2]


def test_a_lake_without_impressions_has_no_slates(tmp_path: Path) -> None:
    """Nothing was served yet."""
    found = slates_of(tmp_path, [], [])
    assert (len(found), found.bundle_ids) == (0, ())
