"""One replica of one follower: its loop, its share of the partitions, and the stores it opens.

Runs alike in a Ray actor and in a plain process; each follower's imports happen when it is opened.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict
from functools import partial

from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.stores.control.membership import (
    ARCHIVER,
    EVIDENCE,
    FEATURES,
    WORKERS,
    Member,
    Membership,
)
from recsys.stores.log.event_log import EventLog
from train_app.following.follow_log import Follower, FollowLoop, Progress
from train_app.following.share_watch import ShareWatch

GATHER_S = {EVIDENCE: 1.0, ARCHIVER: 0.5}
"""How long a worker lets records gather between turns; the others take them as they come.

Nobody decides on evidence that is fresher, and the lake commits every few seconds as it is.
"""
GIVING_WAY = frozenset({EVIDENCE, ARCHIVER})
"""The workers that nobody waits for."""
_NICENESS = 3


def give_way(worker: str) -> None:
    """Let requests go first on a busy machine, for what this thread does and starts from now on.

    Counting and archiving may be a second later; an answer, or the features it is made of, may
    not. Their threads still get half of what another gets, and keep up with it.
    """
    if worker in GIVING_WAY:
        os.nice(_NICENESS)


class Worker:
    """Follows its share of the log until stopped.

    Args:
        worker: one of `WORKERS`.
        replica_id: unlike that of any other replica, living or gone.
    """

    def __init__(self, settings: Settings, worker: str, replica_id: str) -> None:
        if worker not in WORKERS:
            raise ConfigError(
                f"there is no worker '{worker}', expected one of {', '.join(WORKERS)}"
            )
        self._settings = settings
        self._me = Member(worker, replica_id, 0)
        self._log: EventLog | None = None
        self._watch = ShareWatch(
            Membership(settings.control_url),
            self._me,
            range(settings.events.n_partitions),
            settings.workers.member_timeout_s,
        )
        self._loop = FollowLoop(
            worker,
            self._open_follower,
            self._watch.share,
            settings.features.poll_interval_s,
            GATHER_S.get(worker, 0.0),
        )
        self._watch.start(self._row)

    def progress(self) -> Progress:
        """How far it has come since its start."""
        return self._loop.progress()

    def partitions(self) -> frozenset[int]:
        """The partitions it follows now."""
        return self._watch.share()

    def problem(self) -> str | None:
        """Why it is not healthy; None where it is."""
        return self._loop.problem()

    def stop(self) -> None:
        """End after the present turn, and leave the partitions to the others."""
        self._loop.stop()
        self._watch.stop()
        if self._log is not None:
            self._log.close()

    def _row(self) -> Member:
        counts = asdict(self._loop.progress()) | {"problem": self._loop.problem() or ""}
        return Member(self._me.worker, self._me.replica_id, 0, **counts)

    def _open_follower(self) -> Follower:
        """A follower on a freshly opened log: after a failure either may be at fault."""
        from recsys.stores.log.open_log import open_log

        if self._log is not None:
            self._log.close()
            self._log = None
        self._log = open_log(self._settings)
        return open_follower(self._me.worker, self._log, self._settings)


def open_follower(worker: str, log: EventLog, settings: Settings) -> Follower:
    """The follower of one of `WORKERS`, on its own store."""
    if worker == FEATURES:
        from recsys.stores.features.open_features import open_feature_writer
        from train_app.following.features.stream_features import FeatureStream

        return FeatureStream(log, open_feature_writer(settings), settings)
    if worker == ARCHIVER:
        from train_app.lake.archiving.archiver import Archiver
        from train_app.lake.lake_tables import Lake

        taken = partial(taken_by_others, settings)
        return Archiver(log, Lake(settings.lake_location), settings, taken_elsewhere=taken)
    if worker == EVIDENCE:
        from train_app.following.evidence.stream_evidence import EvidenceStream

        return EvidenceStream(log, settings.evidence_url, settings)
    raise ConfigError(f"there is no worker '{worker}', expected one of {', '.join(WORKERS)}")


def taken_by_others(settings: Settings) -> list[dict[int, int]]:
    """The offsets that features and evidence have taken: what the log need not keep for them.

    Raises:
        StoreError: one of them cannot be asked, so nothing is known to be taken.
    """
    from recsys.stores.evidence.evidence import EvidenceReader
    from recsys.stores.features.open_features import open_features

    with (
        closing(open_features(settings)) as features,
        closing(EvidenceReader(settings.evidence_url)) as evidence,
    ):
        return [features.offsets(), dict(evidence.coverage().offsets)]
