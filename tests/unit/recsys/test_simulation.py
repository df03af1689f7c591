"""The simulated world: its laws are visible, and it leaves room for a policy that learns."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.simulated.simulated_population import DAY_MS, WorldSettings
from recsys.simulated.simulation import KINDS, World

LAW = WorldSettings(n_users=80, n_items=400, n_categories=8)
LOG_END_MS = LAW.start_ms + 18 * DAY_MS
NOW_MS = LAW.start_ms + 30 * DAY_MS


def a_world(seed: int = 7) -> World:
    """A small world whose users already have a past."""
    world = World(LAW, seed)
    world.history(18.0, 8, np.random.default_rng(seed))
    return world


def mean_ctr(world: World, slates: dict[str, list[str]]) -> float:
    return float(np.mean([world.expected_ctr(user, s, NOW_MS) for user, s in slates.items()]))


def random_slates(world: World) -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    ids = [item.item_id for item in world.items(NOW_MS)]
    return {user: [str(i) for i in rng.choice(ids, 10, replace=False)] for user in world.user_ids}


def test_the_best_slate_has_far_higher_ctr_than_a_random_one() -> None:
    """There is something to learn: the oracle is at least five times as good as chance."""
    world = a_world()
    best = {user: world.best_slate(user, 10, NOW_MS) for user in world.user_ids}
    assert mean_ctr(world, best) > 5 * mean_ctr(world, random_slates(world))


def test_what_was_best_twelve_days_ago_is_far_from_best_now() -> None:
    """The room retraining has: new items, moved tastes and moved attractions."""
    world = a_world()
    best = {user: world.best_slate(user, 10, NOW_MS) for user in world.user_ids}
    stale = {user: world.best_slate(user, 10, NOW_MS, LOG_END_MS) for user in world.user_ids}
    known = {item.item_id for item in world.items(LOG_END_MS)}
    all_known = {
        user: [i for i in world.best_slate(user, LAW.n_items, NOW_MS) if i in known][:10]
        for user in world.user_ids
    }
    assert mean_ctr(world, best) > 1.25 * mean_ctr(world, stale)
    assert mean_ctr(world, best) > 1.2 * mean_ctr(world, all_known)


def test_a_policy_that_follows_the_last_engagement_beats_one_that_does_not() -> None:
    """The next choice depends on the last one, so order in a history carries information."""
    world = a_world()
    informed = {user: world.best_slate(user, 10, NOW_MS) for user in world.user_ids}
    sessions = world.sessions
    forgetful = World(LAW, 7)
    forgetful.sessions = sessions.copy()
    forgetful.sessions.last_topic[:] = -1
    blind = {user: forgetful.best_slate(user, 10, NOW_MS) for user in world.user_ids}
    assert mean_ctr(world, informed) > 1.05 * mean_ctr(world, blind)


def test_the_same_item_is_clicked_more_often_higher_up() -> None:
    """Position bias: clicks by position fall as the examination does."""
    world = World(LAW, 1)
    rng = np.random.default_rng(2)
    past = world.sessions
    clicks = np.zeros(8)
    user = world.user_ids[0]
    slate = world.best_slate(user, 1, NOW_MS) * 8
    for _ in range(1500):
        world.sessions = past.copy()
        for reaction in world.react(user, slate, NOW_MS, rng):
            clicks[reaction.position] += reaction.kind == "click"
    shares = clicks / clicks[0]
    assert shares == pytest.approx(world.examination(8), abs=0.12)


def test_kinds_are_nested_and_all_of_them_happen() -> None:
    """A like or purchase has its click, a dismissal has none."""
    world = World(LAW, 3)
    rng = np.random.default_rng(4)
    seen: set[str] = set()
    for user in world.user_ids * 4:
        slate = world.best_slate(user, 6, NOW_MS) + world.best_slate(user, 400, NOW_MS)[-4:]
        by_item: dict[str, set[str]] = {}
        for reaction in world.react(user, slate, NOW_MS, rng):
            assert slate[reaction.position] == reaction.item_id
            by_item.setdefault(reaction.item_id, set()).add(reaction.kind)
        for kinds in by_item.values():
            assert "click" in kinds or not kinds & {"like", "purchase"}
            assert not {"click", "dismiss"} <= kinds
            seen |= kinds
    assert seen == set(KINDS)


def test_reactions_agree_with_the_expected_ctr() -> None:
    """The truth that tests and summaries read is the one users act by."""
    world = a_world()
    rng = np.random.default_rng(5)
    past = world.sessions
    user = world.user_ids[3]
    slate = world.best_slate(user, 10, NOW_MS)
    expected = world.expected_ctr(user, slate, NOW_MS)
    n_clicks = 0
    for _ in range(1000):
        world.sessions = past.copy()
        n_clicks += sum(r.kind == "click" for r in world.react(user, slate, NOW_MS, rng))
    assert n_clicks / 10_000 == pytest.approx(expected, rel=0.1)


def test_equal_seeds_give_equal_worlds_and_others_differ() -> None:
    """Everything is drawn from the seeds."""
    one, same, other = (World(LAW, seed) for seed in (7, 7, 8))
    logs = [w.history(18.0, 5, np.random.default_rng(1)) for w in (one, same, other)]
    assert logs[0].item_ids == logs[1].item_ids != logs[2].item_ids
    assert np.array_equal(logs[0].timestamps_ms, logs[1].timestamps_ms)
    slate = one.best_slate("user-00001", 5, NOW_MS)
    assert one.all_items == same.all_items
    assert one.react("user-00001", slate, NOW_MS, np.random.default_rng(3)) == same.react(
        "user-00001", slate, NOW_MS, np.random.default_rng(3)
    )


def test_two_slates_of_one_length_use_up_the_same_luck() -> None:
    """Common random numbers: after either slate the generator stands at the same place."""
    world = a_world()
    ids = [item.item_id for item in world.items(NOW_MS)]
    left, right = np.random.default_rng(3), np.random.default_rng(3)
    world.react("user-00001", ids[:7], NOW_MS, left)
    world.react("user-00002", ids[7:14], NOW_MS, right)
    assert left.random() == right.random()


def test_nothing_happens_to_an_item_before_it_appears() -> None:
    """The log and the catalogue agree about what existed when."""
    world = World(LAW, 9)
    log = world.history(18.0, 10, np.random.default_rng(0))
    created = {item.item_id: item.created_ms or 0 for item in world.all_items}
    for item_id, moment in zip(log.item_ids, log.timestamps_ms, strict=True):
        assert created[item_id] <= moment
    assert len(world.items(LOG_END_MS)) < len(world.items(NOW_MS)) == LAW.n_items
    found = {world.discover(user, LOG_END_MS, np.random.default_rng(1)) for user in world.user_ids}
    assert found <= {item.item_id for item in world.items(LOG_END_MS)} | {None}
    assert len(found) > 5


def test_the_log_is_in_time_order_and_of_the_asked_size() -> None:
    """Nearly every visit leaves a click, and a page without an item that exists leaves none."""
    log = World(LAW, 9).history(18.0, 10, np.random.default_rng(0))
    assert (np.diff(log.timestamps_ms) >= 0).all()
    assert 0.95 * 800 < log.kinds.count("click") <= 800
    assert log.kinds.count("click") > log.kinds.count("like") > log.kinds.count("purchase") > 0


def test_a_reaction_that_is_not_remembered_leaves_the_world_as_it_was() -> None:
    """Two policies can be shown to the same people at the same moment."""
    world = a_world()
    before = world.sessions.copy()
    for user in world.user_ids:
        slate = world.best_slate(user, 10, NOW_MS)
        world.react(user, slate, NOW_MS, np.random.default_rng(1), remember=False)
    assert np.array_equal(world.sessions.engaged, before.engaged)
    assert np.array_equal(world.sessions.last_topic, before.last_topic)


def test_an_empty_slate_gets_no_reaction() -> None:
    """A degraded answer of nothing is answered by nothing."""
    assert World(LAW, 0).react("user-00000", [], NOW_MS, np.random.default_rng(0)) == []


def test_a_world_of_too_many_categories_is_refused() -> None:
    """There are words for twenty."""
    with pytest.raises(ConfigError, match="4 to 20"):
        WorldSettings(n_categories=21)
