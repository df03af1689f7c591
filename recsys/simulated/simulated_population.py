"""Who and what the simulated world holds at its start: its laws, tastes, items and their titles.

U users, N items, G topics. How users act is `simulation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from recsys.errors import ConfigError
from recsys.simulated.simulation_words import ADJECTIVES, CREATOR_NAMES, FORMS, TOPICS
from recsys.types import Item

DAY_MS = 86_400_000
TOPICS_PER_CATEGORY = 5
MIN_CATEGORIES = 4
"""A user likes three categories and comes to like a fourth."""


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """The world's size and its laws; strengths are in logits of a click on an examined item."""

    n_users: int = 1500
    n_items: int = 2000
    n_categories: int = 12
    """4 to 20."""
    start_ms: int = 1_750_000_000_000
    """Day 0."""
    n_days: float = 30.0
    """Over so many days tastes and attractions move from one end to the other and the new items
    appear."""
    new_share: float = 0.5
    """Share of the items that appear after day 0, evenly over the days."""
    reluctance: float = 6.0
    """How far below even odds a click on an indifferent item lies."""
    taste: float = 6.0
    quality: float = 0.5
    """Standard deviation of the item's own attraction, which moves as tastes do."""
    novelty: float = 2.5
    """Attraction of an item on its first day."""
    novelty_days: float = 6.0
    """After so many days a third of the novelty is left."""
    momentum: float = 3.0
    """Attraction of the topic that follows the last one engaged with."""
    repetition: float = 4.0
    """Loss of attraction of an item already engaged with."""
    position_bias: float = 0.7
    """Position p is examined with probability 1 / (1 + p) ** position_bias."""
    view_report_share: float = 0.1
    """Share of examined items whose view the client reports."""

    def __post_init__(self) -> None:
        if not MIN_CATEGORIES <= self.n_categories <= len(TOPICS):
            raise ConfigError(
                f"a simulated world of {self.n_categories} categories; expected "
                f"{MIN_CATEGORIES} to {len(TOPICS)}"
            )


def creation_days(settings: WorldSettings, rng: Generator) -> NDArray[np.float64]:
    """The day each item appears: old ones in the 60 days before day 0."""
    is_new = rng.random(settings.n_items) < settings.new_share
    spread = rng.random(settings.n_items)
    return np.where(is_new, spread * settings.n_days, -60.0 * spread)


def tastes(
    settings: WorldSettings, rng: Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Early and late taste of each user for each topic, 0..1: one of three categories changes."""
    n_users, n_categories = settings.n_users, settings.n_categories
    homes = np.argsort(rng.random((n_users, n_categories)), axis=1)[:, :4]
    strengths = rng.uniform(0.5, 1.0, (n_users, 3))
    favour = rng.uniform(0.6, 1.0, (n_users, n_categories, TOPICS_PER_CATEGORY))
    ends = []
    for chosen in (homes[:, :3], homes[:, 1:]):
        liking = np.zeros((n_users, n_categories))
        np.put_along_axis(liking, chosen, strengths, axis=1)
        ends.append((liking[:, :, None] * favour).reshape(n_users, -1))
    return ends[0], ends[1]


def catalogue(
    topic: NDArray[np.int64],
    created_day: NDArray[np.float64],
    settings: WorldSettings,
    rng: Generator,
) -> list[Item]:
    """Items with titles that tell their topic, as titles do."""
    names = [(category, word) for category, words in TOPICS.items() for word in words]
    words = rng.integers(0, len(ADJECTIVES), (len(topic), 4))
    items = []
    for index, (own, day) in enumerate(zip(topic, created_day, strict=True)):
        category, subject = names[int(own)]
        adjective, form, first, last = words[index]
        items.append(
            Item(
                item_id=f"item-{index:05d}",
                title=f"{ADJECTIVES[adjective]} {subject} {FORMS[form]}",
                categories=(category,),
                creator=f"{CREATOR_NAMES[first]} {CREATOR_NAMES[last]}",
                created_ms=settings.start_ms + int(day * DAY_MS),
            )
        )
    return items
