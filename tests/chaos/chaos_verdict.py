"""What has to hold after a failure run: nothing lost, nothing twice, no gap, exact features.

Compares the lake and the feature store with what was acknowledged, and with a replay of the log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import duckdb

from recsys.data_settings import FeatureSettings
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.settings_files import settings_variables
from recsys.stores.features.feature_update import FeatureContents
from recsys.stores.features.open_features import open_feature_writer
from recsys.stores.log.open_log import open_log
from recsys.types import HistoryEvent
from tests.chaos.chaos_events import chaos_event, expected_histories, expected_item_totals
from tests.chaos.chaos_evidence import evidence_findings
from tests.chaos.chaos_facts import RunFacts, patiently
from tests.chaos.chaos_finding import Finding, n_different, none_of
from tests.chaos.chaos_plan import ChaosPlan, Fault, timeline
from tests.chaos.chaos_producer import read_acknowledged
from train_app.following.features.stream_features import FeatureStream
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import LakeCheckReport, check_lake

DAY_S = 86_400


def judge(plan: ChaosPlan, facts: RunFacts) -> list[Finding]:
    """Everything that was promised of a run, and whether it was kept."""
    acknowledged = set[int]().union(*(read_acknowledged(path) for path in facts.acknowledged))
    events = [
        chaos_event(plan.seed, n, facts.base_ms, plan.n_users, plan.n_items) for n in acknowledged
    ]
    return [
        *_run_findings(plan, facts, len(acknowledged)),
        *_lake_findings(facts.settings, {event.event_id: event for event in events}),
        *_feature_findings(facts.settings, events),
        *evidence_findings(plan, facts.settings),
    ]


def _run_findings(plan: ChaosPlan, facts: RunFacts, n_acknowledged: int) -> list[Finding]:
    wanted = Counter(step.fault for step in timeline(plan))
    done = ", ".join(f"{n} x {fault.value}" for fault, n in facts.n_faults.items())
    findings = [
        Finding("faults", done, facts.n_faults == wanted),
        Finding(
            "acknowledged events",
            f"{n_acknowledged:,} of {plan.n_events:,} in {facts.produced_s:.0f} s",
            n_acknowledged == plan.n_events,
        ),
        Finding("unexpected", "; ".join(facts.problems) or "nothing", not facts.problems),
        Finding(
            "followers at the log's end",
            "never" if facts.settled_s is None else f"after {facts.settled_s:.1f} s",
            facts.settled_s is not None,
        ),
    ]
    findings += [Finding("doubles in the log that were passed over", f"{facts.n_repeated:,}", True)]
    return findings + _cut_findings(plan, facts) if Fault.CUT in wanted else findings


def _cut_findings(plan: ChaosPlan, facts: RunFacts) -> list[Finding]:
    grown_mb = facts.memory_away_mb - facts.memory_before_mb
    return [
        Finding(
            "events on disk while the brokers were away",
            f"{facts.max_spooled:,} at most",
            facts.max_spooled > 0,
        ),
        Finding(
            f"spool empty within {plan.drain_limit_s:.0f} s of the return",
            "never" if facts.drained_s is None else f"after {facts.drained_s:.1f} s",
            facts.drained_s is not None and facts.drained_s <= plan.drain_limit_s,
        ),
        Finding(
            f"a producer grows by at most {plan.memory_bound_mb:.0f} MB meanwhile",
            f"{grown_mb:+.1f} MB, {facts.memory_before_mb:.0f} to {facts.memory_away_mb:.0f} MB",
            grown_mb <= plan.memory_bound_mb,
        ),
    ]


def _lake_findings(settings: Settings, events: Mapping[str, Engagement]) -> list[Finding]:
    lake = Lake(settings.lake_location)
    connection = duckdb.connect()
    table = lake.find("engagements")
    assert table is not None
    table.attach(connection, "engagements")
    rows = connection.execute(
        "SELECT event_id, user_id, item_id, kind, timestamp_ms, count(*) FROM engagements"
        " GROUP BY ALL"
    ).fetchall()
    connection.close()
    n_rows = Counter[str]()
    for event_id, *_, n in rows:
        n_rows[event_id] += n
    n_equal = sum(
        (event.user_id, event.item_id, event.kind, event.timestamp_ms) == tuple(fields)
        for event_id, *fields, _ in rows
        if (event := events.get(event_id)) is not None
    )
    log = patiently(lambda: open_log(settings))
    try:
        report = patiently(lambda: check_lake(lake, log))
    finally:
        log.close()
    doubles = sum(n_rows.values()) - len(n_rows)
    return [
        none_of("acknowledged and not in the lake", len(events.keys() - n_rows.keys())),
        none_of("in the lake and never acknowledged", len(n_rows.keys() - events.keys())),
        none_of("twice in the lake", doubles),
        none_of("changed on the way to the lake", len(rows) - n_equal),
        _command_finding(settings),
        Finding("lake check", _lake_sentence(report), report.is_whole and not report.n_lost),
    ]


def _feature_findings(settings: Settings, events: list[Engagement]) -> list[Finding]:
    writer = open_feature_writer(settings)
    contents = writer.contents()
    writer.close()
    limit = settings.features.history_limit
    histories = expected_histories(events, limit)
    found = {user: _ordered(state.history) for user, state in contents.states.items()}
    wrong_users = n_different(found, {user: _ordered(h) for user, h in histories.items()})
    counted = Counter(event.user_id for event in events)
    versions = {user: state.version for user, state in contents.states.items()}
    totals = expected_item_totals(events, settings.events.negative_kinds)
    replayed = replay(settings)
    return [
        none_of(f"users of {len(histories):,} with another history", wrong_users),
        none_of(
            "users whose version is not their number of events", n_different(versions, counted)
        ),
        none_of(
            f"items of {len(totals):,} with another count in the day's window",
            n_different(day_totals(contents), totals),
        ),
        Finding(
            "a replay of the whole log gives",
            _difference(contents, replayed) or "the same features",
            contents == replayed,
        ),
    ]


def replay(settings: Settings) -> FeatureContents:
    """What the log makes of an empty feature store, without a fault."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = settings.model_copy(
            update={
                "data_dir": Path(directory),
                "features": FeatureSettings(history_limit=settings.features.history_limit),
            }
        )
        log = patiently(lambda: open_log(settings))
        stream = FeatureStream(log, open_feature_writer(fresh), fresh)
        every = range(settings.events.n_partitions)
        try:
            while patiently(lambda: stream.run_once(every)):
                pass
        finally:
            stream.close()
            log.close()
        writer = open_feature_writer(fresh)
        try:
            return writer.contents()
        finally:
            writer.close()


def day_totals(contents: FeatureContents) -> dict[str, tuple[int, int]]:
    """Every item's counts in the window of a day, over all partitions."""
    totals: dict[str, tuple[int, int]] = {}
    for (_, (window_s, _, item_id)), (n_other, n_negative) in contents.item_counts.items():
        if window_s == DAY_S:
            other, negative = totals.get(item_id, (0, 0))
            totals[item_id] = (other + n_other, negative + n_negative)
    return totals


def report_lines(plan: ChaosPlan, findings: list[Finding]) -> list[str]:
    """The report for a person."""
    broken = sum(not finding.holds for finding in findings)
    head = (
        f"failure run with seed {plan.seed}, log {plan.backend}, {plan.n_brokers} brokers,"
        f" features in {plan.features}"
    )
    lines = [head, "-" * len(head)]
    lines += [f"{'ok  ' if f.holds else 'FAIL'}  {f.what}: {f.value}" for f in findings]
    lines.append(f"{broken} violations" if broken else "every promise was kept")
    return lines


def _command_finding(settings: Settings) -> Finding:
    """What an operator is told who asks."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "lake", "check"],
        env={**os.environ, **settings_variables(settings)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = (done.stdout + done.stderr).strip().splitlines()
    words = f"exit {done.returncode}: {said[-1] if said else 'nothing'}"
    return Finding("'cluster lake check'", words, done.returncode == 0)


def _lake_sentence(report: LakeCheckReport) -> str:
    skipped = Counter[str]()
    for part in report.partitions.values():
        skipped.update(part.skipped)
    n_rows = sum(part.n_rows for part in report.partitions.values())
    passed_over = ", ".join(f"{n:,} {reason}" for reason, n in sorted(skipped.items()))
    problems = "; ".join(report.problems) or "whole"
    return f"{problems}; {n_rows:,} rows of the log, passed over: {passed_over or 'none'}"


def _ordered(history: tuple[HistoryEvent, ...] | list[HistoryEvent]) -> list[tuple[object, ...]]:
    return sorted((event.timestamp_ms, event.item_id, event.kind) for event in history)


def _difference(one: FeatureContents, other: FeatureContents) -> str:
    """The fields that differ."""
    fields = ("partitions", "states", "item_counts", "pair_counts", "catalogue", "n_seen")
    return ", ".join(name for name in fields if getattr(one, name) != getattr(other, name))
