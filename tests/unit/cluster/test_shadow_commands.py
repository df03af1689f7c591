"""`cluster shadow`: what it prints and how it exits, on a control store while nothing runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster import learning_commands
from cluster.console import Console
from cluster.shadows import shadow_reading
from cluster.shadows.shadow_commands import lift_arguments, shadow
from cluster.shadows.shadow_figures import meaning, shadow_document, shadow_text
from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from cluster.shadows.shadow_writer import ShadowWriter
from recsys.errors import BundleNotFound, ConfigError, FleetError
from recsys.settings import Settings
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.evidence.evidence_sums import (
    LatencyHistogram,
    ShadowSums,
    VariantEvidence,
    latency_bucket,
)

RECORD = ShadowRecord("s1", "b2", 0.25, ShadowState.RUNNING, "ann", 1_700_000_000_000)
NOTHING = ShadowSums(0, 0, 0, 0, 0.0, 0.0, LatencyHistogram({}), LatencyHistogram({}), {})


def at(latency_ms: float, n: int) -> LatencyHistogram:
    """So many requests of about this latency."""
    return LatencyHistogram({latency_bucket(latency_ms): n})


SUMS = ShadowSums(
    200, 10, 4, 190, 0.62, 0.71, at(10.0, 200), at(20.0, 190), {"deadline": 9, "x": 1}, 19
)


def arm(bundle_id: str, n_answered: int, n_degraded: int) -> VariantEvidence:
    """What a bundle answered."""
    outcomes = {(200, "scorer: timeout"): n_degraded}
    nothing = LatencyHistogram({})
    return VariantEvidence(
        bundle_id, "stable", "", {"slates": n_answered}, {}, outcomes, nothing, nothing
    )


def run(folder: Path, *arguments: str, as_json: bool = True) -> Result:
    """The command, as `cluster shadow ARGUMENTS`."""
    console = Console(Settings(data_dir=folder), as_json=as_json)
    return CliRunner().invoke(shadow, list(arguments), obj=console)


def put(folder: Path, *records: ShadowRecord) -> ShadowWriter:
    """Record shadows as they are."""
    writer = ShadowWriter(Settings(data_dir=folder).control_url)
    for record in records:
        preparing = replace(record, state=ShadowState.PREPARING, stopped_ms=None, why="")
        stored = writer.start(preparing, record.who, record.started_ms)
        if record.state is ShadowState.RUNNING:
            writer.set_running(record.shadow_id, stored.revision, "ann", record.started_ms)
        elif record.is_closed:
            writer.ensure_closed(record.shadow_id, "ann", record.started_ms, record.why)
    return writer


def test_a_status_shows_the_figures_and_what_they_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one document, and as lines for a person."""
    monkeypatch.setattr(shadow_reading, "read_sums", lambda settings, record: SUMS)
    put(tmp_path, RECORD)
    (found,) = json.loads(run(tmp_path, "status").stdout)["shadows"]
    answers = found["answers"]
    assert (answers["n"], answers["n_failed"], answers["reasons"]["deadline"]) == (200, 10, 9)
    assert (answers["overlap_at_k"], answers["rbo"]) == (0.62, 0.71)
    assert answers["latency"]["p99"]["ratio"] == pytest.approx(2.0, rel=0.1)
    text = run(tmp_path, "status", as_json=False).stdout
    for words in (
        "shadow s1 of b2, 25% of the requests, by ann: running",
        "answers: 200, of them 10 failed and 4 degraded; 190 compared",
        "9 x deadline",
        "overlap@k 0.620, RBO 0.710 (1: same); 10.0% are the same slate",
        "latency p50: live 10",
        "5.0% of 200 copies failed, mostly 'deadline'",
        "62% of a live slate is in its own",
        "times as long as the live ones",
    ):
        assert words in text


def test_a_status_says_what_share_of_the_live_answers_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Degraded ones of other bundles, since the hour it began."""
    monkeypatch.setattr(shadow_reading, "read_sums", lambda settings, record: SUMS)
    asked: list[tuple[object, int, int]] = []

    def by_variant(_: object, ids: object, since_ms: int, until_ms: int) -> list[VariantEvidence]:
        asked.append((ids, since_ms, until_ms))
        return [arm("b1", 400, 8), arm("b0", 100, 2), arm("b2", 50, 50), arm("", 9, 9)]

    monkeypatch.setattr(EvidenceReader, "by_variant", by_variant)
    put(tmp_path, RECORD)
    (found,) = json.loads(run(tmp_path, "status").stdout)["shadows"]
    hour_ms = RECORD.started_ms - RECORD.started_ms % 3_600_000
    live = {"since_ms": hour_ms, "n": 500, "n_degraded": 10, "left_out_share": 0.02}
    assert found["live"] == live
    assert asked[0][:2] == (None, hour_ms)
    text = run(tmp_path, "status", as_json=False).stdout
    assert "left out: 10 of 500 live answers since 22:00Z (2.0%) lacked a stage" in text


def test_nothing_is_said_of_live_answers_where_there_are_none(tmp_path: Path) -> None:
    """An evidence store that nobody wrote knows of none."""
    live = shadow_reading.read_live(Settings(data_dir=tmp_path), RECORD, RECORD.started_ms)
    assert (live.n, live.left_out_share) == (0, None)
    assert "left out" not in shadow_text(RECORD, SUMS, live)
    assert shadow_document(RECORD, SUMS, live)["live"]["left_out_share"] is None


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (ShadowState.PREPARING, "no data: its replicas still load the bundle"),
        (ShadowState.RUNNING, "no data yet"),
        (ShadowState.STOPPED, "no data: it was stopped before"),
    ],
)
def test_no_data_is_said_so(state: ShadowState, said: str) -> None:
    """Not shown as zeros; nor where the evidence store has none of it at all."""
    record = replace(RECORD, state=state)
    for sums in (NOTHING, None):
        assert said in shadow_text(record, sums)
        document = shadow_document(record, sums)
        assert (document["answers"], said in document["meaning"]) == (None, True)


def test_a_figure_nothing_is_known_of_is_null() -> None:
    """All copies failed: no slate to compare and no latency of a shadow."""
    sums = replace(SUMS, n_failed=200, n_compared=0, shadow_latency=LatencyHistogram({}))
    answers = shadow_document(RECORD, sums)["answers"]
    assert (answers["overlap_at_k"], answers["rbo"]) == (None, None)
    assert answers["latency"]["p50"]["ratio"] is None
    assert "no pair of slates could be compared yet" in shadow_text(RECORD, sums)
    json.dumps(answers, allow_nan=False)


@pytest.mark.parametrize(
    ("overlap", "words"), [(0.9, "much the same"), (0.5, "other"), (0.1, "hardly any")]
)
def test_the_sentence_follows_the_overlap(overlap: float, words: str) -> None:
    """In words that a person need not look up."""
    assert words in meaning(RECORD, replace(SUMS, overlap=overlap))


def test_a_shadow_as_fast_as_live_is_called_so() -> None:
    """Without failures."""
    sums = replace(SUMS, n_failed=0, reasons={}, shadow_latency=at(10.0, 200))
    said = meaning(RECORD, sums)
    assert "all 200 copies were answered" in said
    assert "about as fast as the live bundle" in said


def test_status_shows_open_shadows_or_else_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the one that is named, by itself or by its bundle."""
    monkeypatch.setattr(shadow_reading, "read_sums", lambda settings, record: NOTHING)
    assert json.loads(run(tmp_path, "status").stdout) == {"shadows": []}
    assert "no shadow yet" in run(tmp_path, "status", as_json=False).stdout
    closed = replace(RECORD, shadow_id="s0", state=ShadowState.STOPPED, why="over", started_ms=1)
    writer = put(tmp_path, closed, RECORD, replace(RECORD, shadow_id="s2", bundle_id="b3"))

    def shown(*arguments: str) -> list[str]:
        found = json.loads(run(tmp_path, "status", *arguments).stdout)["shadows"]
        return [one["shadow"]["shadow_id"] for one in found]

    assert shown() == ["s1", "s2"]
    assert (shown("s0"), shown("b2"), shown("b3")) == (["s0"], ["s1"], ["s2"])
    for name in ("s1", "s2"):
        writer.ensure_closed(name, "ann", 2_000_000_000_000, "over")
    assert shown() == ["s2"]
    assert run(tmp_path, "status", "--watch", as_json=False).stdout.count("stopped (over)") == 1
    assert isinstance(run(tmp_path, "status", "s9").exception, ConfigError)


def test_stop_ends_the_shadow_and_says_why(tmp_path: Path) -> None:
    """A second time there is none to stop."""
    writer = put(tmp_path, RECORD)
    result = run(tmp_path, "stop", "--message", "seen enough")
    assert json.loads(result.stdout)["shadow"]["why"] == "seen enough"
    assert writer.open() == []
    assert isinstance(run(tmp_path, "stop").exception, ConfigError)


def test_start_is_refused_while_nothing_is_stable(tmp_path: Path) -> None:
    """Nothing is written."""
    result = run(tmp_path, "start", "b2")
    assert isinstance(result.exception, FleetError | BundleNotFound)
    assert ShadowWriter(Settings(data_dir=tmp_path).control_url).all() == []
    assert run(tmp_path, "start", "b2", "--share", "0").exit_code == 2


def test_a_lift_is_asked_of_the_learning_process_for_one_shadow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its document stands inside the status, and its exit code is passed on."""
    asked: list[list[str]] = []

    def answer(
        console: Console, arguments: list[str], reads_result: bool = False
    ) -> tuple[int, dict[str, Any]]:
        asked.append(arguments)
        return 6, {"meaning": "refused"}

    monkeypatch.setattr(learning_commands, "run_learning", answer)
    monkeypatch.setattr(shadow_reading, "read_sums", lambda settings, record: SUMS)
    put(tmp_path, RECORD)
    result = run(tmp_path, "status", "--lift", "--kind", "click", "--positions", "5")
    assert result.exit_code == 6
    assert json.loads(result.stdout)["shadows"][0]["lift"] == {"meaning": "refused"}
    since = ["--since", str(RECORD.started_ms), "--share", "0.25"]
    assert asked == [["shadow-lift", "s1", *since, "--kind", "click", "--positions", "5"]]
    assert run(tmp_path, "status", "--lift", as_json=False).exit_code == 6
    with pytest.raises(ConfigError, match="expected 1 of s1, s1"):
        lift_arguments([RECORD, RECORD], None, None)


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    """With exit code 2."""
    for arguments in (["--kind", "click"], ["--positions", "3"], ["--watch", "--lift"]):
        assert run(tmp_path, "status", *arguments, as_json=False).exit_code == 2
