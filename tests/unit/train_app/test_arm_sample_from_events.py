"""From events through the fold and the store to an arm's measures, with figures made by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from recsys.events import Event, Impression
from recsys.evidence.arm_sample import ArmSample, arm_samples
from recsys.stores.evidence.evidence import EvidenceReader
from tests.evidence_by_hand import DAY_MS, HOUR_MS, START_MS, a_slate, an_act
from tests.evidence_follower import a_log, follow, stored
from tests.evidence_of_old import as_the_second_layout

SECOND, MINUTE = 1_000, 60_000
UNTIL_MS = START_MS + DAY_MS


def shown(
    request_id: str,
    user_id: str,
    at_ms: int,
    diversity: float | None = None,
    novelty: float | None = None,
    variant: str = "canary",
) -> Impression:
    """A slate of the rollout `r1`."""
    bundle_id = "b2" if variant == "canary" else "b1"
    slate = a_slate(
        request_id, user_id, START_MS + at_ms, ["a", "b"], bundle_id=bundle_id, variant=variant
    )
    return msgspec.structs.replace(slate, experiment="r1", diversity=diversity, novelty=novelty)


def clicked(number: int, user_id: str, at_ms: int) -> Event:
    """A click on what was shown last."""
    return an_act(f"e{number}", user_id, START_MS + at_ms, "a")


EVENTS: tuple[Event, ...] = (
    # Two visits: 10 min (one slate of which an older gateway says nothing), and 30 s.
    shown("r1", "u1", 0, 0.5, 10.0),
    clicked(1, "u1", MINUTE),
    shown("r2", "u1", 10 * MINUTE),
    shown("r3", "u1", 2 * HOUR_MS, 0.75, 12.5),
    clicked(2, "u1", 2 * HOUR_MS + 30 * SECOND),
    # One visit of 2 min; its catalogue has no categories.
    shown("r4", "u2", 5 * MINUTE, None, 8.0),
    clicked(3, "u2", 7 * MINUTE),
    # Two visits of no length, until a click that comes late makes them one of 50 min.
    shown("r5", "u3", 0, 0.0, 9.0),
    shown("r6", "u3", 50 * MINUTE, 1.0, 9.5),
    clicked(4, "u3", 25 * MINUTE),
    # The baseline: a visit of 5 min, and one of a moment.
    shown("r7", "u4", 0, 0.25, 7.0, "baseline"),
    clicked(5, "u4", 5 * MINUTE),
    shown("r8", "u4", 3 * HOUR_MS, 0.25, 7.0, "baseline"),
    # A visit that began with a slate of before the rollout is of none of its arms.
    a_slate("r9", "u5", START_MS, ["a"]),
    shown("r10", "u5", MINUTE, 0.5, 6.0, "baseline"),
)


def as_they_come() -> list[Event]:
    """In order of time, but for one click that comes 25 minutes late; all of it twice."""
    late = {"e4": 26 * MINUTE}
    once = sorted(EVENTS, key=lambda one: one.timestamp_ms + late.get(one.event_id, 0))
    return [event for event in once for _ in range(2)]


def samples(url: str) -> dict[str, ArmSample]:
    """Both arms as a rollout reads them."""
    reader = EvidenceReader(url)
    users = reader.per_user(["b1", "b2"], START_MS, UNTIL_MS)
    arms = reader.by_variant(["b1", "b2"], START_MS, UNTIL_MS)
    reader.close()
    return arm_samples(users, None, arms, "r1")


def ratio(arm: ArmSample, top: str, bottom: str) -> float:
    """A ratio metric's value."""
    return float(arm.users[top].sum() / arm.users[bottom].sum())


@pytest.mark.parametrize("batch", [3, 100])
def test_visits_returns_and_lists_are_those_counted_by_hand(tmp_path: Path, batch: int) -> None:
    """Canary: 10 min, 30 s, 2 min and 50 min, one of three came back; baseline: 5 min and 0."""
    url = f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    follow(a_log(as_they_come()), url, batch).close()
    canary, baseline = samples(url)["canary"], samples(url)["baseline"]
    assert (canary.n_users, baseline.n_users) == (3, 2)
    assert sorted(canary.users["session_s"].tolist()) == [120.0, 630.0, 3000.0]
    assert sorted(canary.users["sessions"].tolist()) == [1.0, 1.0, 2.0]
    assert ratio(canary, "session_s", "sessions") == pytest.approx(3_750 / 4)
    assert ratio(baseline, "session_s", "sessions") == pytest.approx(300 / 2)
    assert canary.users["returned"].mean() == pytest.approx(1 / 3)
    assert baseline.users["returned"].mean() == pytest.approx(1 / 2)
    assert ratio(canary, "diversity", "diversity_slates") == pytest.approx(2.25 / 4)
    assert ratio(canary, "novelty", "novelty_slates") == pytest.approx(49.0 / 5)
    assert ratio(baseline, "diversity", "diversity_slates") == pytest.approx(1.0 / 3)
    assert ratio(baseline, "novelty", "novelty_slates") == pytest.approx(20.0 / 3)


def test_a_store_of_the_second_layout_is_read_and_goes_on(tmp_path: Path) -> None:
    """What it counted says nothing of lists; what comes is counted, and nothing else changes."""
    url = f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    silent = a_slate("r0", "u9", START_MS, ["a"], bundle_id="b2", variant="canary")
    silent = msgspec.structs.replace(silent, experiment="r1")
    follow(a_log([silent]), url).close()
    before = stored(url)
    as_the_second_layout(url)
    old = samples(url)["canary"]
    assert old.users["slates"].tolist() == [1.0]
    assert old.users["novelty_slates"].tolist() == old.users["diversity"].tolist() == [0.0]
    follow(a_log([silent]), url).close()
    assert stored(url) == before
    follow(a_log([silent, shown("r1", "u1", 0, 0.5, 10.0)]), url).close()
    new = samples(url)["canary"]
    assert sorted(new.users["slates"].tolist()) == [1.0, 1.0]
    assert ratio(new, "novelty", "novelty_slates") == 10.0
    assert ratio(new, "diversity", "diversity_slates") == 0.5
