"""The evidence store over real databases: counts once, whoever dies and however many follow."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import ConfigError, StoreError
from recsys.events import Event, Forgotten
from recsys.stores.evidence.evidence import EvidenceReader, forget_in_evidence
from recsys.stores.evidence.evidence_tables import hashed, open_evidence, read_salt
from tests.evidence_by_hand import (
    DAY_MS,
    HOUR_MS,
    START_MS,
    a_random_log,
    a_slate,
    an_act,
    an_outcome,
    evidence_by_hand,
)
from tests.evidence_follower import (
    N_EVENTS,
    N_USERS,
    PARTITIONS,
    SEED,
    SETTINGS,
    TrimmedLog,
    a_log,
    follow,
    stored,
)
from tests.evidence_of_old import as_the_first_layout
from tests.fakes_event_log import MemoryEventLog
from tests.postgres_server import PostgresServer, a_postgres_server
from tests.shadow_copies import COPIES, as_record
from train_app.following.evidence.stream_evidence import EvidenceStream

pytestmark = pytest.mark.integration

ALL = (0, 4_000_000_000_000)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of this file."""
    with a_postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.mark.parametrize("batch", [7, 1000])
def test_the_store_holds_what_the_plain_computation_counts(url: str, batch: int) -> None:
    """Row by row, over several partitions, with doubles and late arrivals."""
    events = a_random_log(5, 400, n_users=8)
    stream = follow(a_log(events), url, batch)
    assert (stream.n_bad, stream.n_missed) == (0, 0)
    assert stream.n_repeated > 0
    stream.close()
    found = stored(url)
    for name, expected in evidence_by_hand(events).items():
        assert found[name] == expected


def test_shadows_count_once_beside_what_an_old_store_held(url: str) -> None:
    """A store of the first layout keeps its sums, and takes doubles in small batches."""
    events = a_random_log(5, 200, n_users=8)
    follow(a_log(events), url).close()
    before = stored(url)
    as_the_first_layout(url)
    reader = EvidenceReader(url)
    assert reader.shadow("s1").n == 0
    assert sum(sum(arm.outcomes.values()) for arm in reader.by_variant(None, *ALL)) == sum(
        sums["n"] for sums in before["outcomes"].values()
    )
    log = a_log(events)
    for copy in (*COPIES, *COPIES):
        log.append_raw(0, copy.event_id, as_record(copy))
    follow(log, url, 3).close()
    after = stored(url)
    for name in ("hours", "outcomes", "latencies", "users"):
        assert after[name] == before[name]
    sums = reader.shadow("s1")
    assert (sums.n, sums.n_failed, sums.n_compared, sums.n_same_order) == (5, 1, 3, 1)
    assert (sums.overlap, sums.rbo) == (pytest.approx(2 / 3), pytest.approx(1.9 / 3))
    assert (sums.live_latency.n, sums.shadow_latency.n) == (5, 4)
    reader.close()


def test_a_stream_that_dies_at_any_point_counts_once(url: str) -> None:
    """Each turn by a new stream, some of which fail in the middle of their transaction."""
    events = a_random_log(6, 200)
    log = a_log(events)
    for turn in range(1000):
        stream = EvidenceStream(log, url, SETTINGS, max_records=40)
        if not stream.lag(PARTITIONS):
            break
        if turn % 3 == 0:
            stream._rules = None  # type: ignore[assignment]
            with pytest.raises(AttributeError):
                stream.run_once(PARTITIONS)
        else:
            stream.run_once(PARTITIONS)
        stream.close()
    stream.close()
    assert stored(url)["hours"] == evidence_by_hand(events)["hours"]


def test_two_streams_on_one_partition_count_once(url: str) -> None:
    """The one that finds another offset goes on from what is stored."""
    events = a_random_log(7, 300)
    log = a_log(events)
    streams = [EvidenceStream(log, url, SETTINGS, max_records=30) for _ in range(2)]
    n_taken = 0
    while any(stream.lag(PARTITIONS) for stream in streams):
        n_taken += sum(stream.run_once(PARTITIONS) for stream in streams)
    assert n_taken == len(events)
    assert stored(url)["users"] == evidence_by_hand(events)["users"]
    for stream in streams:
        stream.close()


def test_who_only_watches_sees_the_lag_fall(url: str) -> None:
    """The lag is what the store lacks, whoever counts."""
    events = a_random_log(8, 100)
    log = a_log(events)
    watcher, counter = (EvidenceStream(log, url, SETTINGS) for _ in range(2))
    before = watcher.lag(PARTITIONS)
    while counter.run_once(PARTITIONS):
        pass
    assert (before, watcher.lag(PARTITIONS)) == (len(events), 0)
    watcher.close()
    counter.close()


def test_the_lag_is_told_while_another_writes(tmp_path: Path) -> None:
    """Who asks how far it is counted waits for no writer, and keeps none waiting."""
    path = tmp_path / "evidence.sqlite"
    events = a_random_log(8, 50)
    stream = follow(a_log(events), f"sqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE evidence_parts SET next_offset = 0")
        assert stream.lag(PARTITIONS) == 0
        writer.execute("COMMIT")
    assert stream.lag(PARTITIONS) == len(events)
    stream.close()


def test_processes_that_share_a_store_and_are_killed_count_once(tmp_path: Path) -> None:
    """Two processes on all partitions, each killed once on its way."""
    url = f"sqlite:///{tmp_path / 'evidence.sqlite'}"
    program = (
        "import sys; from tests.evidence_follower import follow_in_turns as go; go(sys.argv[1])"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        for child in children[:2]:
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        for child in children[2:]:
            assert child.wait(timeout=60) == 0
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
    assert stored(url)["hours"] == evidence_by_hand(a_random_log(SEED, N_EVENTS, N_USERS))["hours"]


def test_what_was_trimmed_is_counted_as_missed(url: str) -> None:
    """The stream goes on with the first record that is left."""
    log = a_log([an_act(f"e{n}", "u1", START_MS + n, "a") for n in range(10)])
    [partition] = [part for part, end in log.end_offsets().items() if end]
    stream = EvidenceStream(TrimmedLog(log, 4), url, SETTINGS)
    stream._writer.begin(partition, 0)
    assert stream.run_once(PARTITIONS) == 6
    assert stream.n_missed == 4
    stream.close()


def test_a_log_that_ends_before_what_is_counted_is_refused(url: str) -> None:
    """Counted from its beginning it would count twice; what is stored stays."""
    follow(a_log(a_random_log(1, 50)), url).close()
    before = stored(url)
    stream = EvidenceStream(a_log([an_act("fresh", "u1", START_MS, "a")]), url, SETTINGS)
    with pytest.raises(StoreError, match=r"up to offset.*ended at.*replay --evidence"):
        stream.run_once(PARTITIONS)
    stream.close()
    assert stored(url) == before


def test_the_reader_answers_by_variant_and_by_user(url: str) -> None:
    """Sums of both agree with each other."""
    events: list[Event] = [
        a_slate("r1", "u1", START_MS, ["a", "b"], variant="canary", stage_ms=100.0),
        an_act("e1", "u1", START_MS + 1, "a", request_id="r1", value=2.5),
        a_slate("r2", "u2", START_MS, ["c"], stage_ms=10.0),
        an_act("e2", "u2", START_MS + 9, "z"),
        an_outcome("o", "u2", START_MS, 503, "shed"),
    ]
    follow(a_log(events), url).close()
    reader = EvidenceReader(url)
    organic, canary, stable = reader.by_variant(None, *ALL)
    assert (organic.variant, organic.kinds["click"].n) == ("organic", 1)
    assert canary.sums["engaged_slates"] == 1
    assert canary.wasted_items == 1
    assert (canary.kinds["click"].slates, canary.kinds["click"].value) == (1, 2.5)
    assert canary.served_latency.quantile_ms(0.5) == pytest.approx(100, rel=0.06)
    assert stable.outcomes == {(503, "shed"): 1}
    assert stable.failed_latency.n == 1
    users = reader.per_user(["b1"], *ALL)
    assert users.arms == (("b1", "canary", ""), ("b1", "stable", ""))
    assert users.sums["shown"].tolist() == [2, 1]
    assert users.kinds["click"]["value_milli"].tolist() == [2500, 0]
    assert users.of_arm(("b1", "stable", "")).tolist() == [False, True]
    assert len(reader.per_user(None, START_MS + DAY_MS, START_MS + 2 * DAY_MS)) == 0
    assert reader.by_variant(["b2"], *ALL) == []
    [segment] = reader.segments(*ALL)
    assert len(reader.by_variant(["b1"], *ALL, [segment])) == 2
    assert reader.coverage().watermark_ms == START_MS + 9
    reader.close()


def test_the_readers_columns_equal_the_plain_computation(url: str) -> None:
    """Of every user, arm and kind."""
    events = a_random_log(9, 300)
    follow(a_log(events), url).close()
    reader = EvidenceReader(url)
    users = reader.per_user(None, *ALL)
    expected = evidence_by_hand(events)
    for measure, column in users.sums.items():
        assert column.sum() == sum(row.get(measure, 0) for row in expected["users"].values())
    n_buys = np.sum(users.kinds["buy"]["n"])
    assert n_buys == sum(
        row.get("n", 0) for key, row in expected["user_kinds"].items() if key[-1] == "buy"
    )
    reader.close()


def test_a_store_that_was_never_written_is_empty(tmp_path: Path) -> None:
    """And is not made by reading it."""
    path = tmp_path / "evidence.sqlite"
    reader = EvidenceReader(f"sqlite:///{path}")
    assert reader.by_variant(None, *ALL) == []
    assert len(reader.per_user(None, *ALL)) == 0
    assert forget_in_evidence(f"sqlite:///{path}", "u1")["evidence_users"] == 0
    assert not path.exists()


def test_forgetting_removes_the_rows_of_one_person(url: str) -> None:
    """From outside, and by the log."""
    events = a_random_log(2, 200)
    log = a_log(events)
    follow(log, url).close()
    before = stored(url)
    removed = forget_in_evidence(url, "u1")
    assert removed["evidence_users"] == sum(1 for key in before["users"] if key[0] == "u1")
    assert removed["evidence_user_kinds"] > 0
    log.append([Forgotten(event_id="x", user_id="u2", timestamp_ms=START_MS + DAY_MS)])
    follow(log, url).close()
    after = stored(url)
    assert {key[0] for key in after["users"]} == {"u0", "u3"}
    assert after["hours"] == before["hours"]


def test_the_salt_of_a_store_keeps_ids_unreadable(url: str) -> None:
    """Two stores name the same person differently."""
    follow(a_log([an_act("e", "u1", START_MS, "a")]), url).close()
    engine = open_evidence(url, writes=False)
    with engine.begin() as connection:
        salt = read_salt(connection)
    engine.dispose()
    assert len(salt) == 32
    assert hashed(salt, "u1") != hashed(bytes(32), "u1")


@pytest.mark.parametrize("batch", [20, 1000])
def test_old_days_of_users_and_old_trails_are_let_go(url: str, batch: int) -> None:
    """What nothing can change any more takes no room; the hours stay."""
    later = START_MS + 120 * DAY_MS
    log = a_log([*a_random_log(3, 100), an_act("last", "u0", later, "a")])
    log.append([a_slate(f"r{n}-last", f"u{n}", later, ["a"]) for n in range(8)])
    follow(log, url, batch).close()
    engine = open_evidence(url, writes=False)
    with engine.begin() as connection:
        for table in ("evidence_users", "evidence_user_kinds"):
            oldest = connection.exec_driver_sql(f"SELECT min(day_ms) FROM {table}").scalar()
            assert oldest is not None
            assert oldest >= later - 91 * DAY_MS
        n_seen = connection.exec_driver_sql("SELECT count(*) FROM evidence_seen").scalar()
    engine.dispose()
    assert n_seen == 9
    assert min(int(str(key[0])) for key in stored(url)["hours"]) < START_MS + DAY_MS


def test_urls_of_other_databases_are_refused_with_their_name() -> None:
    """Before anything is tried."""
    with pytest.raises(ConfigError, match="evidence store"):
        EvidenceReader("nonsense")


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    """With its place and what to do."""
    path = tmp_path / "evidence.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="evidence store"):
        EvidenceStream(MemoryEventLog(), f"sqlite:///{path}", SETTINGS)


def test_event_hours_are_those_of_the_slate(url: str) -> None:
    """So that a rate's two sums are of the same slates."""
    events: list[Event] = [
        a_slate("r", "u1", START_MS, ["a"]),
        an_act("e", "u1", START_MS + 2 * HOUR_MS, "a", request_id="r"),
    ]
    follow(a_log(events), url).close()
    assert {key[0] for key in stored(url)["kinds"]} == {START_MS}
