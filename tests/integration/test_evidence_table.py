"""The table of evidence over a store that was followed into."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.events import Event
from tests.evidence_by_hand import HOUR_MS, START_MS, a_slate, an_act, an_outcome
from tests.evidence_follower import SETTINGS, a_log, follow
from train_app.following.evidence.evidence_report import show_evidence

pytestmark = pytest.mark.integration


def test_the_table_shows_each_arm_with_its_rates(tmp_path: Path) -> None:
    """As text for a person, as figures for a program, and by segment."""
    url = f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    settings = SETTINGS.model_copy(update={"evidence_store_url": url})
    now_ms = START_MS + 20 * HOUR_MS
    assert "nothing is counted" in show_evidence(settings, now_ms=lambda: now_ms).text
    events: list[Event] = []
    for n in range(60):
        variant = "canary" if n % 2 else "stable"
        slate = a_slate(
            f"r{n}", f"u{n}", START_MS + n, ["a", "b"], variant=variant, context={"device": "tv"}
        )
        events.append(slate)
        if n % 3 == 0:
            act = an_act(f"e{n}", f"u{n}", START_MS + n + 1, "a", request_id=f"r{n}")
            events.append(act)
    events += [an_outcome("o", "u1", START_MS, 503, "shed"), an_act("z", "u1", START_MS, "q")]
    follow(a_log(events), url).close()
    outcome = show_evidence(settings, now_ms=lambda: now_ms)
    organic, canary, stable = outcome.document["rows"]
    assert organic["kinds"]["click"]["n"] == 1
    assert canary["rates"]["engaged slates"]["value"] == pytest.approx(1 / 3)
    assert canary["rates"]["engaged slates"]["low"] < 1 / 3
    assert canary["rates"]["wasted items"]["value"] == pytest.approx(5 / 6)
    assert stable["outcomes"] == [{"status": 503, "reason": "shed", "n": 1}]
    assert "fixed horizon" in outcome.text
    assert "upper bound" in outcome.text
    assert "1 x 503 shed" in outcome.text
    by_device = show_evidence(settings, now_ms=lambda: now_ms, by="device").document["rows"]
    assert [row["segment"] for row in by_device] == ["device=tv", "device=tv"]
    only = show_evidence(settings, bundle_ids=["b9"], now_ms=lambda: now_ms)
    assert only.document["rows"] == []
    assert only.text == (
        "no evidence of bundle 'b9' in this range; 'cluster bundle list' names the bundles"
    )
