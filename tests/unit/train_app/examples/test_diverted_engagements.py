"""Training from one side of an experiment: what is left out, what stays, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ConfigError
from recsys.settings import Settings
from tests.example_lake import DAY, MINUTE, a_lake, an_engagement, an_imported, an_impression
from tests.experiment_lake import EXPERIMENT, FROM_MS, arm_fields
from train_app.examples.interactions import Interactions
from train_app.examples.lake_examples import load_interactions

SECOND_RUN = f"{EXPERIMENT}0"
"""An id that begins with that of the experiment."""


def read(settings: Settings, side: str = "") -> tuple[set[tuple[str, str]], Interactions]:
    """User and item of every engagement that training would learn from."""
    train = settings.train.model_copy(update={"diverted_to": side})
    diverted = settings.model_copy(update={"train": train})
    found = load_interactions(diverted.lake_location, diverted)
    users = [found.user_ids[user] for user in found.user_of_event()]
    return {
        (user, found.items[row].item_id) for user, row in zip(users, found.rows, strict=True)
    }, found


def a_split_lake(folder: Path) -> Settings:
    """A user per side and one beside it, with what each did."""
    impressions = [
        an_impression("c", ["c1", "c2"], FROM_MS, **arm_fields("control")),
        an_impression("t", ["t1", "t2", "t3"], FROM_MS, **arm_fields("treatment")),
        # Shown again later by what is no side: the newest slate that showed it has the credit.
        an_impression("t", ["t2"], FROM_MS + 2 * MINUTE),
        an_impression("o", ["o1"], FROM_MS, experiments=[f"{SECOND_RUN}:treatment"]),
        an_impression("n", ["n1"], FROM_MS),
    ]
    request = f"r-t-{FROM_MS}"
    engagements = [
        an_imported("t", "past", FROM_MS - 90 * DAY),
        an_engagement("c", "c1", FROM_MS + MINUTE, request_id=f"r-c-{FROM_MS}"),
        an_engagement("c", "c2", FROM_MS + MINUTE),
        an_engagement("t", "t1", FROM_MS + MINUTE, request_id=request),
        an_engagement("t", "t3", FROM_MS + MINUTE),
        an_engagement("t", "t2", FROM_MS + 3 * MINUTE),
        an_engagement("t", "found alone", FROM_MS + MINUTE),
        an_engagement("t", "t1", FROM_MS + 30 * DAY, "view"),
        an_engagement("o", "o1", FROM_MS + MINUTE),
        an_engagement("n", "n1", FROM_MS + MINUTE),
    ]
    return a_lake(folder, impressions=impressions, engagements=engagements)


def test_a_side_learns_from_its_slates_and_from_all_the_experiment_did_not_answer(
    tmp_path: Path,
) -> None:
    """Credit to the request that is named, else to the newest slate that showed the item."""
    settings = a_split_lake(tmp_path)
    everything, plain = read(settings)
    assert "diverted_to" not in plain.lineage
    of_control, control = read(settings, f"{EXPERIMENT}:control")
    assert len(plain) - len(control) == 2
    assert everything - of_control == {("t", "t3")}, "t1 was seen again long after"
    of_treatment, treatment = read(settings, f"{EXPERIMENT}:treatment")
    assert everything - of_treatment == {("c", "c1"), ("c", "c2")}
    for found in (control, treatment):
        versions: Any = found.lineage["lake_versions"]
        assert set(versions) >= {"engagements", "impressions"}
    assert control.lineage["diverted_to"] == {"side": f"{EXPERIMENT}:control", "n_left_out": 2}


def test_an_engagement_that_names_an_earlier_request_is_that_slates(tmp_path: Path) -> None:
    """Although a later slate of no side showed the item too."""
    shown = an_impression("t", ["a"], FROM_MS, **arm_fields("treatment"))
    again = an_impression("t", ["a"], FROM_MS + MINUTE)
    control = an_impression("c", ["b"], FROM_MS, **arm_fields("control"))
    acts = [
        an_engagement("t", "a", FROM_MS + 2 * MINUTE, request_id=shown["request_id"]),
        an_engagement("t", "b", FROM_MS + 2 * MINUTE),
    ]
    settings = a_lake(tmp_path, impressions=[shown, shown, again, control], engagements=acts)
    found, _ = read(settings, f"{EXPERIMENT}:control")
    assert found == {("t", "b")}


@pytest.mark.parametrize(
    "side", ["treatment", f"{EXPERIMENT}:other", f"{EXPERIMENT}:", "no-such:control", "'; --"]
)
def test_a_side_that_nobody_was_answered_by_is_refused(tmp_path: Path, side: str) -> None:
    """With those that there are."""
    settings = a_split_lake(tmp_path)
    known = f"{SECOND_RUN}:treatment, {EXPERIMENT}:control, {EXPERIMENT}:treatment"
    with pytest.raises(ConfigError, match=f"there are {known}"):
        read(settings, side)


def test_a_lake_without_slates_has_no_sides(tmp_path: Path) -> None:
    """It says so instead of learning from everything."""
    settings = a_lake(tmp_path, engagements=[an_engagement("u", "a", FROM_MS)])
    with pytest.raises(ConfigError, match="no experiment has answered anybody yet"):
        read(settings, f"{EXPERIMENT}:control")
