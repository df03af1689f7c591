"""Computes live features or evidence anew, beside what serves, and puts the result in its place.

What is taken in meanwhile by the workers is taken in again from where the new values end. Each
store's values come from its one writer; here they are only asked for the whole log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from recsys.errors import ConfigError, DataError
from recsys.settings import Settings
from recsys.stores.features.feature_draft import open_feature_draft
from recsys.stores.features.open_features import open_feature_writer
from recsys.stores.log.event_log import EventLog
from recsys.stores.log.open_log import open_log
from train_app.command_outcome import Outcome
from train_app.following.evidence.rebuild_evidence import rebuild_evidence
from train_app.following.features.rebuild_features import rebuild_features
from train_app.following.features.stream_features import FeatureStream
from train_app.following.follow_log import Follower
from train_app.following.lake_then_log import LakeThenLog
from train_app.lake.archiving.ingest import run_ingest
from train_app.lake.lake_tables import Lake


@dataclass
class ReplayReport:
    """What was computed anew."""

    n_taken: dict[str, int] = field(default_factory=dict)
    """By store: what was taken in."""
    sorts: dict[str, str] = field(default_factory=dict)
    """By store: what that is, for people."""
    offsets: dict[str, dict[int, int]] = field(default_factory=dict)
    """By store: the log offsets the new values end at."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return asdict(self)

    def text(self) -> str:
        """The report for a person."""
        return "\n".join(
            f"{store}: {n:,} {self.sorts[store]} taken in, up to {_named(self.offsets[store])}"
            for store, n in self.n_taken.items()
        )


def _named(offsets: dict[int, int]) -> str:
    ends = ", ".join(f"{partition}: {end}" for partition, end in sorted(offsets.items()) if end)
    return f"offsets {ends}" if ends else "no offset of the log yet"


def replay(settings: Settings, *, features: bool, evidence: bool, from_lake: bool) -> Outcome:
    """`replay`: live features, evidence or both, from the log or from lake and log.

    Raises:
        ConfigError: nothing, or what cannot be done, was asked for.
        DataError: the source does not hold all that the store was made of.
        StoreError: a store is away; the old values stay.
    """
    if not features and not evidence:
        raise ConfigError("nothing to replay, expected --features, --evidence or both")
    started_s = time.monotonic()
    report = ReplayReport()
    if features:
        _features(settings, report, from_lake=from_lake)
    if evidence:
        _evidence(settings, report, from_lake=from_lake)
    report.seconds = time.monotonic() - started_s
    return Outcome(report.as_dict(), report.text())


def _features(settings: Settings, report: ReplayReport, *, from_lake: bool) -> None:
    if from_lake:
        run_ingest(settings)
        with closing(open_log(settings)) as log:
            rebuilt = rebuild_features(settings.lake_location, settings, log=log)
        report.sorts["features"] = "imported users and records"
        report.n_taken["features"], report.offsets["features"] = rebuilt.n_taken, rebuilt.offsets
        return
    with closing(open_log(settings)) as log:
        refuse_short_log(log, "features")
        _refuse_imports(settings)
        n_taken, offsets = _from_log(log, settings)
    report.n_taken["features"], report.sorts["features"] = n_taken, "records"
    report.offsets["features"] = offsets


def _evidence(settings: Settings, report: ReplayReport, *, from_lake: bool) -> None:
    if from_lake:
        run_ingest(settings)
    with closing(open_log(settings)) as log:
        if from_lake:
            with closing(LakeThenLog(log, Lake(settings.lake_location))) as whole:
                rebuilt = rebuild_evidence(whole, settings)
        else:
            refuse_short_log(log, "evidence")
            rebuilt = rebuild_evidence(log, settings)
    report.n_taken["evidence"], report.sorts["evidence"] = rebuilt.n_taken, "records"
    report.offsets["evidence"] = rebuilt.offsets


def _from_log(log: EventLog, settings: Settings) -> tuple[int, dict[int, int]]:
    draft = open_feature_draft(settings)
    # A lake that is not there: a stream with an empty store would begin with it.
    nowhere = settings.model_copy(update={"lake_url": str(settings.data_dir / "no-lake")})
    try:
        with closing(FeatureStream(log, draft.writer(), nowhere)) as stream:
            ends = log.end_offsets()
            n_taken = take_all(stream, log)
        draft.put_in_place()
    finally:
        draft.remove()
    return n_taken, ends


def take_all(
    follower: Follower, log: EventLog, progress: Callable[[int], None] = lambda n: None
) -> int:
    """Let a follower take in every partition up to its present end; the records it took."""
    partitions = list(log.end_offsets())
    n_taken = 0
    while follower.lag(partitions):
        n_taken += follower.run_once(partitions)
        progress(n_taken)
    return n_taken


def refuse_short_log(log: EventLog, store: str) -> None:
    """Refuse to compute from a log that has lost its beginning.

    Raises:
        DataError: it has.
    """
    trimmed = {p: begin for p, begin in log.begin_offsets().items() if begin}
    if trimmed:
        partition, begin = min(trimmed.items())
        raise DataError(
            f"partition {partition} of the log begins at offset {begin}, expected 0: {store} of"
            " before cannot be computed from the log; say --from-lake"
        )


def _refuse_imports(settings: Settings) -> None:
    with closing(open_feature_writer(settings)) as writer:
        if writer.most_imported(1):
            raise DataError(
                "the features hold imported histories, which the log does not have; say --from-lake"
            )
