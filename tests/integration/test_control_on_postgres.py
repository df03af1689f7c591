"""The control store's server: gone and back, slow, crowded; and what its errors may say."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest
from sqlalchemy import create_engine, text

from cluster.rollouts.storing.control_writer import ControlWriter, HistoryEntry
from recsys.errors import ConfigError, StoreError
from recsys.stores import postgres_link
from recsys.stores.control.control import ControlReader, ReadinessReporter
from recsys.stores.control.control_tables import open_engine
from recsys.traffic import TrafficPlan
from tests.control_backends import write_plan
from tests.postgres_server import PostgresServer, a_postgres_server

pytestmark = pytest.mark.integration

PLAN = TrafficPlan.single("b1", 1, "s")


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    """A server for this file, which some tests restart."""
    with a_postgres_server() as server:
        yield server


@pytest.fixture
def control_url(postgres: PostgresServer) -> str:
    """A control store with a plan."""
    url = postgres.new_schema()
    write_plan(url, PLAN, ("b1",))
    return url


def test_a_server_that_is_gone_is_said_at_once_and_followed_when_it_is_back(
    postgres: PostgresServer, control_url: str
) -> None:
    """Killed without a word; whoever was connected needs no restart."""
    reader, reporter, writer = (
        ControlReader(control_url),
        ReadinessReporter(control_url),
        ControlWriter(control_url),
    )
    reporter.report("g1", "gateway", {"b1": ("ready", "")}, 1, 1)
    assert reader.view().plan == PLAN
    with postgres.killed():
        began_s = time.monotonic()
        for use in (
            reader.view,
            lambda: reporter.report("g1", "gateway", {}, 1, 2),
            lambda: writer.set_alias("stable", "b2", "b1"),
        ):
            with pytest.raises(StoreError, match="control store postgresql"):
                use()
        assert time.monotonic() - began_s < 3 * postgres_link.CONNECT_TIMEOUT_S
    writer.set_alias("stable", "b2", "b1")
    assert reader.view().aliases == {"stable": "b2"}
    reporter.report("g1", "gateway", {"b1": ("ready", "")}, 1, 3)
    assert [row.heartbeat_ms for row in reader.readiness()] == [3]


def test_writers_take_turns_and_none_is_turned_away(control_url: str) -> None:
    """Changes that have nothing to do with each other never conflict, unlike serializable ones."""
    n_writers, n_lines = 6, 10

    def write(number: int) -> None:
        with closing(ControlWriter(control_url)) as writer:
            for line in range(n_lines):
                writer.append_history(HistoryEntry(line, f"w{number}", "test", "", ""))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(n_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with closing(ControlWriter(control_url)) as writer:
        told = [(entry.who, entry.at_ms) for entry in writer.history()]
    assert sorted(told) == [(f"w{n}", line) for n in range(n_writers) for line in range(n_lines)]


def test_heartbeats_wait_for_no_writer(control_url: str) -> None:
    """A change that takes long keeps no replica from saying that it lives."""
    engine = open_engine(control_url, writes=True)
    reporter = ReadinessReporter(control_url)
    reporter.report("g1", "gateway", {"b1": ("ready", "")}, 1, 1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE control_head SET revision = revision"))
        reporter.report("g1", "gateway", {"b1": ("ready", "")}, 1, 2)
    engine.dispose()
    assert [row.heartbeat_ms for row in ControlReader(control_url).readiness()] == [2]


def test_a_writer_that_waits_too_long_says_so(
    control_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of hanging behind one that stopped in the middle."""
    monkeypatch.setattr("recsys.stores.control.control_tables.BUSY_TIMEOUT_MS", 50)
    holder, writer = open_engine(control_url, writes=True), ControlWriter(control_url)
    with holder.begin(), pytest.raises(StoreError, match="lock timeout"):
        writer.set_alias("stable", "b2", "b1")
    holder.dispose()
    writer.set_alias("stable", "b2", "b1")


def n_connections(url: str) -> int:
    """How many the user of this URL holds, this look apart."""
    engine = create_engine(url)
    mine = text("SELECT count(*) FROM pg_stat_activity WHERE usename = current_user")
    with engine.connect() as connection:
        found = int(connection.execute(mine).scalar_one()) - 1
    engine.dispose()
    return found


def n_connections_once(url: str, n_expected: int) -> int:
    """The same, once it is so many: the server ends what was closed a moment later."""
    give_up_s = time.monotonic() + 10
    while (found := n_connections(url)) != n_expected and time.monotonic() < give_up_s:
        time.sleep(0.02)
    return found


def test_an_engine_opens_few_connections(control_url: str) -> None:
    """One user more waits until another has done, and what was opened for a rush is closed."""
    engine = open_engine(control_url, writes=False)
    n_most = postgres_link.POOL_SIZE + postgres_link.POOL_OVERFLOW
    with ExitStack() as held, ThreadPoolExecutor(1) as another:
        for _ in range(n_most):
            held.enter_context(engine.connect())
        waiting = another.submit(lambda: engine.connect().close())
        assert n_connections(control_url) == n_most
        assert not waiting.done()
        held.close()
        waiting.result(timeout=postgres_link.POOL_WAIT_S)
    n_kept = postgres_link.POOL_SIZE
    assert n_connections_once(control_url, n_kept) == n_kept
    engine.dispose()


def test_a_store_that_nobody_holds_any_more_gives_its_connections_back(control_url: str) -> None:
    """Commands open many and close few."""
    reader = ControlReader(control_url)
    assert reader.view().plan == PLAN
    assert n_connections(control_url) == 1
    del reader
    gc.collect()
    assert n_connections_once(control_url, 0) == 0


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql+psycopg://ann:hunter2@127.0.0.1:1/control", StoreError),
        ("postgresql+nosuch://ann:hunter2@127.0.0.1:1/control", ConfigError),
        ("mysql://ann:hunter2@127.0.0.1:1/control", ConfigError),
        ("postgresql+psycopg://ann:hunter2@127.0.0.1:port/control", ConfigError),
    ],
)
def test_no_error_says_the_password(url: str, error: type[Exception]) -> None:
    """Of a server that is away, a driver that is missing, a URL that is none."""
    with pytest.raises(error) as told:
        ControlReader(url).view()
    assert "hunter2" not in str(told.value)
