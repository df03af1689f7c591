"""A simulated world: users with drifting tastes, items that come and fade, and position bias.

It plays the users of the demo and of tests. What it knows (tastes, quality) no model is shown;
its sessions, the recent engagements of each user, are its only state, and every draw comes from
a generator that is passed in. n requests, K positions, U users, N items, G topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from recsys.simulated.simulated_population import (
    DAY_MS,
    TOPICS_PER_CATEGORY,
    WorldSettings,
    catalogue,
    creation_days,
    tastes,
)
from recsys.types import Item

KINDS = ("view", "click", "like", "purchase", "dismiss")

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reaction:
    """One act on one item of a slate."""

    item_id: str
    position: int
    kind: str


@dataclass(frozen=True, slots=True)
class HistoryColumns:
    """An engagement log as columns of equal length, in time order."""

    user_ids: list[str]
    item_ids: list[str]
    kinds: list[str]
    timestamps_ms: _Ints


@dataclass(frozen=True, slots=True)
class Sessions:
    """What users did so far, as far as their next choice depends on it."""

    last_topic: _Ints  # [U], -1 before the first engagement
    engaged: NDArray[np.bool_]  # [U, N]

    def copy(self) -> Sessions:
        """A copy that later reactions leave alone."""
        return Sessions(self.last_topic.copy(), self.engaged.copy())


class World:
    """Users, items and the laws between them; equal settings and seed make equal worlds."""

    def __init__(self, settings: WorldSettings, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n_topics = settings.n_categories * TOPICS_PER_CATEGORY
        self.settings = settings
        self.user_ids = [f"user-{user:05d}" for user in range(settings.n_users)]
        self.topic = rng.integers(0, n_topics, settings.n_items)  # [N]
        self.early_quality, self.late_quality = rng.normal(
            0.0, settings.quality, (2, settings.n_items)
        )  # [N] each
        self.created_day = creation_days(settings, rng)  # [N]
        self.early_taste, self.late_taste = tastes(settings, rng)  # [U, G] each
        self.all_items = catalogue(self.topic, self.created_day, settings, rng)
        self.sessions = Sessions(
            np.full(settings.n_users, -1), np.zeros((settings.n_users, settings.n_items), np.bool_)
        )
        self._user_index = {user_id: index for index, user_id in enumerate(self.user_ids)}
        self._item_index = {item.item_id: index for index, item in enumerate(self.all_items)}

    def items(self, now_ms: int) -> list[Item]:
        """The items that have appeared by a moment."""
        exists = self.created_day <= self._day(now_ms)
        return [item for item, here in zip(self.all_items, exists, strict=True) if here]

    def click_chance(self, users: _Ints, items: _Ints, days: _Floats) -> _Floats:
        """P(click | examined) for users [n], items [n, K] and days [n], in the present sessions."""
        odds = np.exp(self._attraction(users, items, days) - self.settings.reluctance)
        return np.asarray(odds / (1.0 + odds))

    def examination(self, n_positions: int) -> _Floats:
        """P(examined) by position, [K]."""
        return np.asarray(1.0 / (1.0 + np.arange(n_positions)) ** self.settings.position_bias)

    def expected_ctr(self, user_id: str, item_ids: Sequence[str], now_ms: int) -> float:
        """Expected clicks per shown item of one slate."""
        users, items, days = self._request(user_id, item_ids, now_ms)
        chances = self.click_chance(users, items, days)[0]
        return float(np.mean(chances * self.examination(len(item_ids))))

    def best_slate(
        self, user_id: str, k: int, now_ms: int, known_ms: int | None = None
    ) -> list[str]:
        """The slate a policy would show that knew everything as it was at `known_ms`.

        Without `known_ms` it knows the present: no slate of that length has a higher expected CTR.
        """
        known = now_ms if known_ms is None else known_ms
        ids = [item.item_id for item in self.items(known)]
        chances = self.click_chance(*self._request(user_id, ids, known))[0]
        return [ids[column] for column in np.argsort(-chances, kind="stable")[:k]]

    def react(
        self,
        user_id: str,
        item_ids: Sequence[str],
        now_ms: int,
        rng: Generator,
        *,
        remember: bool = True,
    ) -> list[Reaction]:
        """What one user does with one served slate; remembered in the sessions unless told not to.

        The number of draws depends on the slate's length alone, so two policies that answer the
        same visit with equal generators meet equal luck.
        """
        if not item_ids:
            return []
        users, items, days = self._request(user_id, item_ids, now_ms)
        luck = rng.random((6, len(item_ids)))
        chance = self.click_chance(users, items, days)[0]
        examined = luck[0] < self.examination(len(item_ids))
        clicked = examined & (luck[1] < chance)
        happened = {
            "view": examined & (luck[2] < self.settings.view_report_share),
            "click": clicked,
            "like": clicked & (luck[3] < 0.1 + 0.5 * chance),
            "purchase": clicked & (luck[4] < 0.05 + 0.2 * chance),
            "dismiss": examined & ~clicked & (luck[5] < 0.1 * (1.0 - chance) ** 8),
        }
        for column in np.flatnonzero(clicked & remember):
            self._remember(users, items[:, column])
        return [
            Reaction(item_ids[column], int(column), kind)
            for column in range(len(item_ids))
            for kind in KINDS
            if happened[kind][column]
        ]

    def discover(self, user_id: str, now_ms: int, rng: Generator, n_met: int = 60) -> str | None:
        """The item a user takes to outside any slate, among `n_met` met by chance; remembered."""
        users = np.array([self._user_index[user_id]])
        days = np.array([self._day(now_ms)])
        met = rng.integers(0, self.settings.n_items, (1, n_met))
        chosen = self._choose(users, met, days, rng)
        if self.created_day[chosen[0]] > days[0]:
            return None
        self._remember(users, chosen)
        return self.all_items[int(chosen[0])].item_id

    def history(
        self, days: float, events_per_user: int, rng: Generator, n_shown: int = 60
    ) -> HistoryColumns:
        """The log of a weak policy from day 0 on: it shows what is popular, half of it at random.

        Every user takes one item of each page it shows; sessions go on from where they were.
        """
        n_users = self.settings.n_users
        visits = np.sort(rng.random((n_users, events_per_user)) * days, axis=1)
        weights = np.exp(1.5 * self.early_quality / max(self.settings.quality, 1e-9))
        weights /= weights.sum()
        users = np.arange(n_users)
        events: list[tuple[_Ints, _Ints, _Floats, NDArray[np.str_]]] = []
        for visit in range(events_per_user):
            popular = rng.choice(len(weights), (n_users, n_shown // 2), p=weights)
            random = rng.integers(0, len(weights), (n_users, n_shown - n_shown // 2))
            shown = np.concatenate([popular, random], axis=1)
            chosen = self._choose(users, shown, visits[:, visit], rng)
            exists = self.created_day[chosen] <= visits[:, visit]
            chance = self.click_chance(users, chosen[:, None], visits[:, visit])[:, 0]
            self._remember(users[exists], chosen[exists])
            happened = (
                ("click", np.ones(n_users)),
                ("like", 0.1 + 0.5 * chance),
                ("purchase", 0.2 * chance),
            )
            for minutes, (kind, share) in enumerate(happened):
                took = exists & (rng.random(n_users) < share)
                when = visits[took, visit] + minutes / 1440.0
                events.append((users[took], chosen[took], when, np.full(took.sum(), kind)))
        return self._columns(events)

    def _columns(
        self, events: list[tuple[_Ints, _Ints, _Floats, NDArray[np.str_]]]
    ) -> HistoryColumns:
        users, items, days, kinds = (np.concatenate(column) for column in zip(*events, strict=True))
        order = np.argsort(days, kind="stable")
        return HistoryColumns(
            user_ids=[self.user_ids[user] for user in users[order]],
            item_ids=[self.all_items[item].item_id for item in items[order]],
            kinds=[str(kind) for kind in kinds[order]],
            timestamps_ms=self.settings.start_ms + (days[order] * DAY_MS).astype(np.int64),
        )

    def _attraction(self, users: _Ints, items: _Ints, days: _Floats) -> _Floats:
        """The appeal of items [n, K] to users [n] on days [n]; -inf before an item appears."""
        law = self.settings
        topics = self.topic[items]
        moved = np.clip(days / law.n_days, 0.0, 1.0)[:, None]
        early = self.early_taste[users[:, None], topics]
        late = self.late_taste[users[:, None], topics]
        age = days[:, None] - self.created_day[items]
        last = self.sessions.last_topic[users][:, None]
        early = law.taste * early + self.early_quality[items]
        late = law.taste * late + self.late_quality[items]
        appeal = (1.0 - moved) * early + moved * late
        appeal += law.novelty * np.exp(-np.maximum(age, 0.0) / law.novelty_days)
        appeal += law.momentum * ((topics == _following(last)) & (last >= 0))
        appeal -= law.repetition * self.sessions.engaged[users[:, None], items]
        return np.where(age >= 0.0, appeal, -np.inf)

    def _choose(self, users: _Ints, shown: _Ints, days: _Floats, rng: Generator) -> _Ints:
        """One of the shown items [n, m] each, drawn by the softmax of its appeal (Gumbel)."""
        appeal = self._attraction(users, shown, days) + rng.gumbel(size=shown.shape)
        return np.asarray(shown[np.arange(len(users)), np.argmax(appeal, axis=1)])

    def _remember(self, users: _Ints, items: _Ints) -> None:
        self.sessions.engaged[users, items] = True
        self.sessions.last_topic[users] = self.topic[items]

    def _request(
        self, user_id: str, item_ids: Sequence[str], now_ms: int
    ) -> tuple[_Ints, _Ints, _Floats]:
        items = [self._item_index[item_id] for item_id in item_ids]
        user = self._user_index[user_id]
        return np.array([user]), np.array([items], dtype=np.int64), np.array([self._day(now_ms)])

    def _day(self, now_ms: int) -> float:
        return (now_ms - self.settings.start_ms) / DAY_MS


def _following(topics: _Ints) -> _Ints:
    """The topic a user turns to after one: the next of the same category, round and round."""
    category, place = np.divmod(topics, TOPICS_PER_CATEGORY)
    return np.asarray(category * TOPICS_PER_CATEGORY + (place + 1) % TOPICS_PER_CATEGORY)
