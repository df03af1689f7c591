"""Sums of a shadow's answers, their store over SQLite, and a store of an earlier release."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from recsys.events import Forgotten, Outcome
from recsys.stores.evidence.evidence import EvidenceReader, forget_in_evidence
from recsys.stores.evidence.evidence_sums import latency_bucket
from tests.evidence_by_hand import START_MS
from tests.evidence_follower import SETTINGS, follow, stored
from tests.evidence_of_old import as_the_first_layout
from tests.fakes_evidence import MemoryEvidence
from tests.shadow_copies import COPIES, a_log, as_record
from train_app.following.evidence.user_trail import evidence_rules

SINCE, UNTIL = 0, 4_000_000_000_000


def test_a_copy_counts_once_whatever_the_batches_and_the_order() -> None:
    """Twice, late, or the other way round."""
    found = []
    for batches in (
        [[as_record(one) for one in (*COPIES, *COPIES)]],
        [[as_record(one)] for one in (*reversed(COPIES), *COPIES)],
    ):
        evidence = MemoryEvidence(evidence_rules(SETTINGS))
        for batch in batches:
            evidence.take(batch)
        assert (evidence.n_bad, evidence.n_repeated) == (0, len(COPIES))
        found.append(evidence.tables)
    assert found[0] == found[1]
    whole: dict[str, int] = {}
    for (_, shadow_id), sums in found[0]["shadows"].items():
        for name, n in sums.items() if shadow_id == "s1" else ():
            whole[name] = whole.get(name, 0) + n
    assert whole == {
        "n": 5, "n_failed": 1, "n_degraded": 1, "n_compared": 3, "n_same_order": 1,
        "overlap_milli": 2000, "rbo_milli": 1900,
    }  # fmt: skip


def test_a_shadow_is_read_as_means_and_histograms(tmp_path: Path) -> None:
    """And one that nobody counted is nothing, also of a store that was never written."""
    url = f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    reader = EvidenceReader(url)
    assert (reader.shadow("s1").n, math.isnan(reader.shadow("s1").rbo)) == (0, True)
    follow(a_log(*COPIES, *COPIES), url, 3).close()
    sums = reader.shadow("s1")
    assert (sums.n, sums.n_failed, sums.n_degraded, sums.n_compared) == (5, 1, 1, 3)
    assert (sums.overlap, sums.rbo) == (pytest.approx(2 / 3), pytest.approx(1.9 / 3))
    assert sums.live_latency.counts == {latency_bucket(10.0): 5}
    assert sums.shadow_latency.counts == {latency_bucket(20.0): 4}
    assert (dict(sums.reasons), sums.n_same_order) == ({"deadline": 1}, 1)
    assert reader.shadow("s2").n == 1
    assert reader.shadow("unknown").n == 0
    reader.close()


def test_a_shadows_sums_hold_no_person(tmp_path: Path) -> None:
    """So a person who is forgotten changes nothing of them."""
    url = f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    forgotten = Forgotten(event_id="f", user_id="u", timestamp_ms=START_MS + 9)
    follow(a_log(*COPIES, forgotten), url).close()
    before = stored(url)["shadows"]
    forget_in_evidence(url, "u")
    assert stored(url)["shadows"] == before != {}


def test_failures_and_latencies_are_counted_by_the_experiment_of_their_request(
    tmp_path: Path,
) -> None:
    """Those of an earlier rollout of the same bundle are an arm of their own."""
    url = f"sqlite:///{tmp_path / 'evidence.sqlite'}"

    def failed(number: int, experiment: str | None) -> Outcome:
        return Outcome(
            event_id=f"o{number}", request_id=f"r{number}", user_id="u", timestamp_ms=START_MS,
            bundle_id="b1", variant="canary", status=500, reason="boom", latency_ms=5.0,
            experiment=experiment,
        )  # fmt: skip

    follow(a_log(failed(0, "r0"), failed(1, "r1"), failed(2, "r1"), failed(3, None)), url)
    reader = EvidenceReader(url)
    arms = {arm.experiment: arm for arm in reader.by_variant(["b1"], SINCE, UNTIL)
            if arm.variant == "canary"}  # fmt: skip
    reader.close()
    assert {name: arm.outcomes for name, arm in arms.items()} == {
        "": {(500, "boom"): 1}, "r0": {(500, "boom"): 1}, "r1": {(500, "boom"): 2},
    }  # fmt: skip
    assert {name: arm.failed_latency.n for name, arm in arms.items()} == {"": 1, "r0": 1, "r1": 2}


def test_a_store_of_the_first_layout_keeps_its_sums_and_goes_on(tmp_path: Path) -> None:
    """It is read as it is, and upgraded by the first who writes."""
    file = tmp_path / "evidence.sqlite"
    url = f"sqlite:///{file}"
    outcome = Outcome(
        event_id="o", request_id="r", user_id="u", timestamp_ms=START_MS, bundle_id="b1",
        variant="stable", status=503, reason="shed", latency_ms=5.0,
    )  # fmt: skip
    follow(a_log(outcome), url).close()
    as_the_first_layout(url)
    reader = EvidenceReader(url)
    before = reader.by_variant(None, SINCE, UNTIL)
    assert [arm.outcomes for arm in before] == [{(503, "shed"): 1}]
    assert reader.shadow("s1").n == 0
    later = Outcome(**(msgspec.structs.asdict(outcome) | {"event_id": "o2", "experiment": "r1"}))
    follow(a_log(outcome, later, COPIES[0]), url).close()
    arms = {arm.experiment: arm for arm in reader.by_variant(None, SINCE, UNTIL)}
    assert arms[""].outcomes == arms["r1"].outcomes == {(503, "shed"): 1}
    assert arms[""].failed_latency.n == arms["r1"].failed_latency.n == 1
    assert reader.shadow("s1").n == 1
    reader.close()
    with closing(sqlite3.connect(file)) as connection:
        left = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE '%layout%'")
        assert left.fetchall() == []


def test_a_malformed_copy_is_set_aside() -> None:
    """It stops nobody."""
    evidence = MemoryEvidence(evidence_rules(SETTINGS))
    evidence.take([b'{"type":"shadow","event_id":"e"}', as_record(COPIES[0])])
    assert evidence.n_bad == 1
    assert sum(sums["n"] for sums in evidence.tables["shadows"].values()) == 1
