"""Resident bundles: load, refuse, retry and let go."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys.errors import BundleCorrupt
from serve_app.residents.resident import FIRST_RETRY_S, ResidentBundles


@dataclass
class World:
    """A clock, a shelf of loadable bundles and a record of loads."""

    now_s: float = 0.0
    broken: set[str] = field(default_factory=set)
    loads: list[str] = field(default_factory=list)
    n_changes: int = 0

    def load(self, bundle_id: str) -> str:
        self.loads.append(bundle_id)
        if bundle_id in self.broken:
            raise BundleCorrupt(f"{bundle_id} is truncated")
        return bundle_id.upper()

    def changed(self) -> None:
        self.n_changes += 1

    def bundles(self, unload_after_s: float = 3.0) -> ResidentBundles[str]:
        return ResidentBundles(self.load, unload_after_s, lambda: self.now_s, self.changed)


def settle(bundles: ResidentBundles[str]) -> None:
    """Turn until there is nothing to do at once."""
    while bundles.turn():
        pass


def test_required_bundles_are_loaded_beside_each_other() -> None:
    """A canary loads while stable keeps answering."""
    world = World()
    bundles = world.bundles()
    bundles.require(["a", "b", "a"])
    assert bundles.states() == {"a": ("loading", ""), "b": ("loading", "")}
    settle(bundles)
    assert (bundles.get("a"), bundles.get("b")) == ("A", "B")
    assert bundles.states() == {"a": ("ready", ""), "b": ("ready", "")}
    assert world.loads == ["a", "b"]
    assert world.n_changes == 2


def test_a_broken_bundle_is_refused_by_name_and_the_others_go_on() -> None:
    """Serving goes on; the reason is told."""
    world = World(broken={"bad"})
    bundles = world.bundles()
    bundles.require(["bad", "good"])
    settle(bundles)
    assert bundles.get("good") == "GOOD"
    assert bundles.get("bad") is None
    assert bundles.states()["bad"] == ("failed", "bad is truncated")
    assert bundles.wait_until_settled(0.0)


def test_a_refused_bundle_is_tried_again_later_and_ever_more_rarely() -> None:
    """A store that was away for a moment does not cost the rollout."""
    world = World(broken={"b"})
    bundles = world.bundles()
    bundles.require(["b"])
    settle(bundles)
    settle(bundles)
    assert world.loads == ["b"]
    world.now_s = FIRST_RETRY_S
    settle(bundles)
    assert world.loads == ["b", "b"]
    world.now_s = 2 * FIRST_RETRY_S
    settle(bundles)
    assert world.loads == ["b", "b"]
    world.broken.clear()
    world.now_s = 3 * FIRST_RETRY_S
    settle(bundles)
    assert bundles.get("b") == "B"
    assert bundles.states() == {"b": ("ready", "")}


def test_a_bundle_no_longer_required_stays_until_it_was_unused_for_long_enough() -> None:
    """Requests under way, and those of gateways with an older plan, still find it."""
    world = World()
    bundles = world.bundles(unload_after_s=3.0)
    bundles.require(["old", "new"])
    settle(bundles)
    world.now_s = 2.0
    assert bundles.get("old") == "OLD"
    for now_s, expected in ((4.0, "OLD"), (5.0, "OLD"), (5.5, None)):
        world.now_s = now_s
        bundles.require(["new"])
        bundles.reported()
        assert bundles.peek("old") == expected
    assert bundles.bundle_ids == ("new",)


def test_a_bundle_is_withdrawn_and_that_reported_before_it_is_dropped() -> None:
    """Nobody reads "ready" of a bundle that is gone."""
    world = World()
    bundles = world.bundles(unload_after_s=0.0)
    bundles.require(["old"])
    settle(bundles)
    bundles.require([])
    assert bundles.states() == {}
    bundles.require([])
    assert bundles.get("old") == "OLD"  # the withdrawal was not reported yet
    bundles.reported()
    bundles.require([])
    assert bundles.get("old") is None


def test_a_withdrawn_bundle_that_is_required_again_is_ready_at_once() -> None:
    """A swap back and forth does not load twice."""
    world = World()
    bundles = world.bundles(unload_after_s=0.0)
    bundles.require(["old"])
    settle(bundles)
    bundles.require([])
    bundles.reported()
    bundles.require(["old"])
    assert bundles.states() == {"old": ("ready", "")}
    bundles.require([])
    assert bundles.get("old") == "OLD"
    assert world.loads == ["old"]


def test_looking_is_not_using() -> None:
    """A background refresh does not keep a bundle alive."""
    world = World()
    bundles = world.bundles(unload_after_s=3.0)
    bundles.require(["old"])
    settle(bundles)
    world.now_s = 3.0
    assert bundles.peek("old") == "OLD"
    bundles.require([])
    assert bundles.states() == {}


def test_the_loading_thread_settles_what_is_required() -> None:
    """What a starting replica waits for."""
    world = World(broken={"bad"})
    bundles = world.bundles()
    bundles.start()
    try:
        bundles.require(["bad", "good"])
        assert bundles.wait_until_settled(10.0)
        assert bundles.get("good") == "GOOD"
    finally:
        bundles.stop()
