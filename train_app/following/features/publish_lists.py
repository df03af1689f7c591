"""Writes the derived lists of the feature store: popular, trending, and items' neighbours.

Done by whichever replica of the feature stream has the lowest partition; two that both believe so
write the same. Popular and trending are of all that is stored; an item's neighbours are as of the
last change of its own pairs. What a list is made of is `feature_lists`, `feature_definitions`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from recsys.feature_definitions import best_neighbours
from recsys.settings import Settings
from recsys.stores.features.feature_update import FeatureUpdate, FeatureWriter, PairTotals, Ranked
from train_app.following.features.feature_fold import FoldRules
from train_app.following.features.feature_lists import ListRules, WindowTotals

PUBLISH_EVERY_S = 1.0
"""The lists are written at most so often."""
_REST_PER_WORK = 20
"""After a publication that took long, so many times as long a pause: a twentieth of one core."""
_NEIGHBOURS_PER_CALL = 50
_NEIGHBOURS_BUDGET_S = 0.1
"""Work on neighbours in one turn; what is stale beyond that waits for the next."""


class ListPublisher:
    """Keeps the lists in step with the store's counts.

    Args:
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        writer: FeatureWriter,
        settings: Settings,
        fold_rules: FoldRules,
        clock_s: Callable[[], float],
    ) -> None:
        features = settings.features
        self._writer = writer
        self._fold_rules = fold_rules
        self._list_rules = ListRules(
            features.popular_window_s, features.popular_limit, features.trending_limit
        )
        self._neighbours_limit = features.neighbours_limit
        self._clock_s = clock_s
        self._totals: WindowTotals | None = None
        self._published_at: Mapping[int, int | None] | None = None
        self._due_s = 0.0

    def note(self, offset: int | None, update: FeatureUpdate) -> None:
        """Take in an update this process has stored, folded from what stood at `offset`."""
        if self._totals is None:
            return
        if self._totals.offsets.get(update.partition) == offset:
            self._totals.advance(update)
        else:
            self._totals = None

    def rest(self) -> None:
        """Let another replica publish; gives the memory back."""
        self._totals = self._published_at = None

    def publish(self, partitions: Collection[int], *, is_idle: bool) -> None:
        """Write the lists where they are due and have changed, and some stale neighbours.

        Args:
            partitions: all of the log.
            is_idle: nothing is waiting to be folded, so that neighbours need not wait either.
        """
        started_s = self._clock_s()
        is_due = started_s >= self._due_s
        if is_due:
            self._write_lists(partitions)
            took_s = self._clock_s() - started_s
            self._due_s = started_s + max(PUBLISH_EVERY_S, _REST_PER_WORK * took_s)
        if is_due or is_idle:
            self._refresh_neighbours()

    def publish_all(self, partitions: Collection[int]) -> None:
        """Write the lists now, and the neighbours of every stale item."""
        self._write_lists(partitions)
        while self._refresh_some():
            pass

    def _write_lists(self, partitions: Collection[int]) -> None:
        totals = self._current(partitions)
        if totals.offsets == self._published_at:
            return
        self._writer.write_popular("live", totals.popular())
        self._writer.write_trending(totals.trending())
        self._published_at = dict(totals.offsets)

    def _current(self, partitions: Collection[int]) -> WindowTotals:
        """The totals of what is stored: as folded here, or read where others have folded too."""
        stored = {partition: self._writer.offset(partition) for partition in partitions}
        if self._totals is None or self._totals.offsets != stored:
            windows_s = self._list_rules.windows_s
            parts = {p: self._writer.windows(p, windows_s) for p in partitions}
            self._totals = WindowTotals(self._list_rules, parts)
        return self._totals

    def _refresh_neighbours(self) -> None:
        give_up_s = self._clock_s() + _NEIGHBOURS_BUDGET_S
        while self._refresh_some() and self._clock_s() < give_up_s:
            pass

    def _refresh_some(self) -> bool:
        """Make some stale items' neighbours anew; whether there may be more."""
        if self._totals is None:
            return False
        since_day = self._fold_rules.pairs_since_day(self._totals.now_ms)
        n_done = self._writer.refresh_neighbours(_NEIGHBOURS_PER_CALL, since_day, self._rank)
        return n_done == _NEIGHBOURS_PER_CALL

    def _rank(self, totals: PairTotals) -> dict[str, Ranked]:
        return {
            item_id: best_neighbours(
                pairs, totals.degrees.get(item_id, 0), totals.degrees, self._neighbours_limit
            )
            for item_id, pairs in totals.pairs.items()
        }
