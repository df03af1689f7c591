"""`shadow-lift` on a lake: which answers count, what is left out, and the refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recsys.errors import DataRefused
from recsys.settings import Settings
from tests.example_lake import HOUR, MINUTE, NOON, a_lake, an_engagement, an_impression
from train_app.shadows.lift_command import run_shadow_lift
from train_app.shadows.shadow_slates import ShadowSlates, read_shadow_slates
from train_app.shadows.uncopied_answers import Uncopied

pytestmark = pytest.mark.integration
LATER = NOON + 9 * HOUR


def a_copy(user: str, at_ms: int, items: list[str], **fields: Any) -> dict[str, Any]:
    """A row of `shadows` of the request that `an_impression` of the same user and time answers."""
    row: dict[str, Any] = {
        "event_id": f"s-{user}-{at_ms}",
        "request_id": f"r-{user}-{at_ms}",
        "user_id": user,
        "timestamp_ms": at_ms,
        "shadow_id": "s1",
        "bundle_id": "b2",
        "live_bundle_id": "b1",
        "status": 200,
        "reason": "",
        "live_items": ["a", "b", "c"],
        "items": items,
        "propensities": [0.5] * len(items),
        "live_ms": 1.0,
        "shadow_ms": 2.0,
        "degraded": [],
        "sequence": at_ms,
        "log_partition": 0,
        "log_offset": at_ms,
    }
    return row | fields


def a_settled_lake(folder: Path) -> Settings:
    """Six requests of which two can be used, and a click on one of those."""
    shown = [an_impression(f"u{n}", ["a", "b", "c"], NOON + n * MINUTE) for n in range(6)]
    copies = [
        a_copy("u0", NOON, ["a", "c", "b"]),
        a_copy("u1", NOON + MINUTE, ["b", "x"]),
        a_copy("u2", NOON + 2 * MINUTE, [], status=504, reason="deadline"),
        a_copy("u3", NOON + 3 * MINUTE, ["a"], live_items=["a", "b"]),
        a_copy("u4", NOON + 4 * MINUTE, ["a"], request_id="r-unknown"),
        a_copy("u5", NOON + 5 * MINUTE, ["a"], shadow_id="s9"),
        a_copy("u0", NOON, ["c"], event_id="twice", sequence=NOON + HOUR),
        a_copy("u6", LATER, ["a"]),
    ]
    late = an_impression("u6", ["a", "b", "c"], LATER)
    clicks = [
        an_engagement("u0", "a", NOON + 1_000, request_id=f"r-u0-{NOON}", position=0),
        an_engagement("u7", "a", LATER, origin="api"),
    ]
    return a_lake(folder, impressions=[*shown, late], engagements=clicks, shadows=copies)


def read(settings: Settings, **changes: Any) -> ShadowSlates:
    """The pairs of shadow s1."""
    return read_shadow_slates(settings, "s1", now_ms=LATER + MINUTE, **changes)


def test_copies_meet_the_slates_of_their_requests(tmp_path: Path) -> None:
    """With what the user did; failed, unknown, unlike and recent ones are counted and left out."""
    found = read(a_settled_lake(tmp_path))
    slates = found.slates
    assert (found.bundle_ids, len(slates)) == (("b2",), 2)
    assert slates.rewards.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert (slates.live[0] == slates.live[1]).all()
    a, b, c = slates.live[0].tolist()
    assert slates.shadow[0].tolist() == [a, c, b]
    assert slates.shadow[1].tolist()[0] == b
    assert slates.shadow[1].tolist()[1] not in (a, b, c, -1)
    assert slates.shadow[1].tolist()[2] == -1
    assert (slates.propensities == 0.9).all()
    assert found.left_out == {
        "failed": 1, "no_impression": 1, "other_slate": 1, "unusable_or_window_open": 1,
    }  # fmt: skip


def test_answers_without_a_copy_are_counted_by_why(tmp_path: Path) -> None:
    """Degraded ones apart; neither those of the shadow's own bundle nor of before its copies."""
    moments = [NOON + n * MINUTE for n in range(8)]
    shown = [an_impression(f"u{n}", ["a", "b", "c"], at) for n, at in enumerate(moments)]
    shown[2] |= {"degraded": ["scorer: timeout"]}
    shown[3] |= {"bundle_id": "b2"}
    shown[5] |= {"degraded": ["scorer: timeout"]}
    copies = [
        a_copy("u1", moments[1], ["a"]),
        a_copy("u5", moments[5], [], status=504, reason="deadline"),
        a_copy("u6", moments[6], ["a"]),
    ]
    acts = [an_engagement("u7", "a", LATER, origin="api")]
    settings = a_lake(tmp_path, impressions=shown, engagements=acts, shadows=copies)
    found = read(settings, share=1.0).uncopied
    assert found == Uncopied(n_wanted=5, n_copied=3, n_degraded=1)
    assert found.n_crowded_out == 1
    assert "3 of 5 answers" in found.sentence() and "1 (20.0%) that lacked" in found.sentence()
    assert read(settings, share=1e-9).uncopied == Uncopied(3, 3, 0)
    outcome = run_shadow_lift(settings, shadow_id="s1", share=1.0, now_ms=lambda: LATER + MINUTE)
    assert outcome.document["uncopied"] == found.as_dict()
    assert found.sentence() in outcome.text


def test_only_what_came_since_and_of_a_kind_counts(tmp_path: Path) -> None:
    """A kind nobody did earns nothing."""
    settings = a_settled_lake(tmp_path)
    assert read(settings, kind="purchase").slates.rewards.sum() == 0.0
    assert len(read(settings, since_ms=NOON + MINUTE).slates) == 1


def test_too_few_copies_are_refused_with_what_was_found(tmp_path: Path) -> None:
    """The document is printed all the same; without any copy there is none."""
    settings = a_settled_lake(tmp_path)
    outcome = run_shadow_lift(settings, shadow_id="s1", now_ms=lambda: LATER + MINUTE)
    assert isinstance(outcome.error, DataRefused)
    assert "more requests" in str(outcome.error)
    assert outcome.document["support"]["n_rounds"] == 2
    assert "refused" in outcome.text
    with pytest.raises(DataRefused, match="no answers of shadow s0"):
        run_shadow_lift(settings, shadow_id="s0", now_ms=lambda: LATER + MINUTE)
