"""The only writer of the evidence store: follows the event log and counts what came of slates.

Each batch is stored in one transaction with the log offset it ends at, so that a record counts
once, whenever the process dies. What a batch means is `evidence_fold`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial

from recsys.errors import StoreError
from recsys.settings import Settings
from recsys.stores.log.event_log import EventLog, LogRecord
from train_app.following.evidence.evidence_fold import fold_evidence
from train_app.following.evidence.evidence_records import decode_evidence
from train_app.following.evidence.evidence_writer import EvidenceWriter
from train_app.following.evidence.user_trail import evidence_rules

_log = logging.getLogger(__name__)

MAX_RECORDS_PER_TURN = 2_000
"""Records taken in one turn, over all partitions: bounds memory and the hold of the write lock."""


class EvidenceStream:
    """Keeps the evidence in step with the event log; one turn per `run_once`.

    Several streams on one store do no harm, even on one partition: who finds another offset than
    it left there goes on from what is stored.

    Args:
        log: the log to follow; it stays open.
        url: SQLAlchemy URL of the evidence store; its tables are made where missing.
        max_records: records taken in one turn at most.
    """

    def __init__(
        self,
        log: EventLog,
        url: str,
        settings: Settings,
        *,
        max_records: int = MAX_RECORDS_PER_TURN,
    ) -> None:
        self._event_log = log
        self._rules = evidence_rules(settings)
        self._writer = EvidenceWriter(url, self._rules)
        self._max_records = max_records
        self._offsets: dict[int, int] = {}
        self.n_bad = 0
        """Records skipped because they are no event."""
        self.n_missed = 0
        """Records that were gone from the log before they could be read."""
        self.n_repeated = 0
        """Events that were counted before."""

    def run_once(self, partitions: Collection[int]) -> int:
        """Take in what is new in these partitions, up to a bound; the records taken in.

        Raises:
            StoreError: what was stored before stays; the next turn starts from it. Also where
                the log ends before what is counted.
        """
        try:
            ends = self._event_log.end_offsets()
            behind = [
                partition
                for partition in partitions
                if partition in ends and self._offset(partition, ends[partition]) < ends[partition]
            ]
            limit = max(1, self._max_records // max(1, len(behind)))
            return sum(self._follow(partition, limit) for partition in behind)
        except BaseException:
            self._offsets.clear()
            raise

    def lag(self, partitions: Collection[int]) -> int:
        """Records of these partitions that are not counted yet, by whichever stream."""
        ends, begins = self._event_log.end_offsets(), self._event_log.begin_offsets()
        # From the store: where another stream follows, this one's own offsets stand still.
        counted = self._writer.offsets()
        return sum(
            max(0, ends[partition] - max(counted.get(partition, 0), begins[partition]))
            for partition in ends.keys() & set(partitions)
        )

    def close(self) -> None:
        """Give the evidence store back; the log stays open."""
        self._writer.close()

    def _offset(self, partition: int, end: int) -> int:
        """Where a partition goes on; read from the store unless this stream has left it there."""
        offset = self._offsets.get(partition)
        if offset is None:
            offset = self._writer.offsets().get(partition)
            if offset is None:
                offset = self._event_log.begin_offsets()[partition]
                self._writer.begin(partition, offset)
            elif offset > end and offset > self._event_log.end_offsets()[partition]:
                # Past the end as it is now: another stream may have gone on since `end` was asked.
                raise StoreError(
                    f"the evidence counts partition {partition} of the log up to offset {offset},"
                    " expected a log that ends there or later, but it ended at"
                    f" {end}: it was replaced or restored from an older copy; restore the newer"
                    " one, or count this one anew with 'cluster events replay --evidence'"
                )
            self._offsets[partition] = offset
        return offset

    def _follow(self, partition: int, limit: int) -> int:
        offset = self._offsets[partition]
        records = self._event_log.read(partition, offset, limit)
        if not records:
            return 0
        decoded = decode_evidence(records, self._writer.hashed)
        next_offset = records[-1].offset + 1
        change = self._writer.update(
            partition,
            offset,
            next_offset,
            decoded.user_hashes,
            decoded.event_hashes,
            partial(fold_evidence, decoded, rules=self._rules),
        )
        if change is None:
            del self._offsets[partition]
            return 0
        self._offsets[partition] = next_offset
        self.n_repeated += change.n_repeated
        self._tell(records, offset, decoded.bad)
        return len(records)

    def _tell(
        self, records: list[LogRecord], offset: int, bad: tuple[tuple[LogRecord, str], ...]
    ) -> None:
        first = records[0]
        if first.offset > offset:
            self.n_missed += first.offset - offset
            _log.error(
                f"partition {first.partition}: records {offset} to {first.offset - 1} are gone"
                " from the log; the evidence lacks what they said"
            )
        self.n_bad += len(bad)
        for record, reason in bad[:3]:
            _log.warning(
                f"skipped record {record.offset} of partition {record.partition}: {reason}"
            )
