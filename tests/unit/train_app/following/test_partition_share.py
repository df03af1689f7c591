"""Who follows which partition: every partition has one owner, and few move."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.stores.control.membership import Member
from train_app.following.partition_share import living, owners_of, share_of, watch_members

REPLICAS = st.sets(st.text("abcdef0123456789", min_size=1, max_size=6), min_size=1, max_size=9)
PARTITIONS = st.integers(1, 40).map(range)
NOW_MS = 1_790_000_000_000
TIMEOUT_S = 5.0


def a_member(replica_id: str, heartbeat_ms: int = NOW_MS, problem: str = "") -> Member:
    """A row of the feature stream."""
    return Member("features", replica_id, heartbeat_ms, problem=problem)


@given(REPLICAS, PARTITIONS)
@settings(max_examples=50, deadline=None)
def test_every_partition_has_exactly_one_owner(replicas: set[str], partitions: range) -> None:
    """The shares of all replicas, each computed by itself, are a partition of the partitions."""
    shares = [share_of(replica, replicas, partitions) for replica in replicas]
    assert sorted(partition for share in shares for partition in share) == list(partitions)


@given(REPLICAS, PARTITIONS)
@settings(max_examples=50, deadline=None)
def test_loads_differ_by_one_at_most(replicas: set[str], partitions: range) -> None:
    """No replica idles while another has two partitions more."""
    loads = [len(share_of(replica, replicas, partitions)) for replica in replicas]
    assert max(loads) - min(loads) <= 1


def test_a_replica_counts_itself_among_the_living() -> None:
    """Alone, or before its own heartbeat is seen, it follows everything."""
    assert share_of("a", (), range(4)) == {0, 1, 2, 3}
    assert share_of("a", {"b"}, range(4)) == share_of("a", {"a", "b"}, range(4))


def test_few_partitions_move_when_a_replica_comes_or_goes() -> None:
    """On average less than twice what the newcomer has to be given."""
    moved = needed = 0
    for seed in range(40):
        for n_replicas in range(1, 7):
            replicas = [f"{seed}-{n}" for n in range(n_replicas + 1)]
            before = owners_of(sorted(replicas[:-1]), list(range(24)))
            after = owners_of(sorted(replicas), list(range(24)))
            moved += sum(before[partition] != after[partition] for partition in before)
            needed += 24 // (n_replicas + 1)
    assert moved < 2 * needed


def test_a_replica_that_stops_beating_lives_no_more() -> None:
    """After the timeout of the watcher's own clock, and not before."""
    rows = [a_member("a"), a_member("b")]
    seen = watch_members({}, rows, NOW_MS, 100.0, TIMEOUT_S)
    assert living(seen, rows, 100.0, TIMEOUT_S) == {"a", "b"}
    rows = [a_member("a", NOW_MS + 4_000), a_member("b")]
    seen = watch_members(seen, rows, NOW_MS + 4_000, 104.0, TIMEOUT_S)
    assert living(seen, rows, 104.0, TIMEOUT_S) == {"a", "b"}
    assert living(seen, rows, 106.0, TIMEOUT_S) == {"a"}


def test_what_is_left_of_an_earlier_run_never_counts_as_living() -> None:
    """Its heartbeat is old at first sight; one that left said so with a heartbeat of 0."""
    rows = [a_member("old", NOW_MS - 60_000), a_member("left", 0)]
    seen = watch_members({}, rows, NOW_MS, 100.0, TIMEOUT_S)
    assert living(seen, rows, 100.0, TIMEOUT_S) == frozenset()


def test_a_clock_that_jumps_an_hour_takes_nobodys_partitions_away() -> None:
    """A heartbeat that changes counts as heard, whatever time it names."""
    rows = [a_member("a"), a_member("b")]
    seen = watch_members({}, rows, NOW_MS, 100.0, TIMEOUT_S)
    rows = [a_member("a", NOW_MS + 3_601_000), a_member("b", NOW_MS + 1_000)]
    seen = watch_members(seen, rows, NOW_MS + 3_601_000, 101.0, TIMEOUT_S)
    assert living(seen, rows, 101.0, TIMEOUT_S) == {"a", "b"}
    skewed = [a_member("c", NOW_MS - 3_600_000)]
    seen = watch_members({}, skewed, NOW_MS, 100.0, TIMEOUT_S)
    assert living(seen, skewed, 100.0, TIMEOUT_S) == frozenset()
    skewed = [a_member("c", NOW_MS - 3_599_000)]
    seen = watch_members(seen, skewed, NOW_MS + 1_000, 101.0, TIMEOUT_S)
    assert living(seen, skewed, 101.0, TIMEOUT_S) == {"c"}


def test_a_replica_that_makes_no_progress_gives_its_partitions_to_the_others() -> None:
    """It says so in its row."""
    rows = [a_member("a"), a_member("b", problem="the disk is gone")]
    seen = watch_members({}, rows, NOW_MS, 100.0, TIMEOUT_S)
    assert living(seen, rows, 100.0, TIMEOUT_S) == {"a"}
