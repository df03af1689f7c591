"""Which processes are ours: pure cases, and real little process trees that get killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.local.owned_processes import (
    PF_EXITING,
    RUN_ID_VARIABLE,
    ProcessIdentity,
    ProcessRow,
    RunRecord,
    end_run,
    family_of,
    find_owned,
    is_alive,
    lock_holder,
    machine_mark,
    owned_now,
    parse_stat,
    read_process,
    read_process_table,
    read_record,
    send_signal,
    sign_lock,
    write_record,
)

HERE = "boot/pid"


def a_row(
    pid: int, *, parent: int = 1, session: int = 0, start: int = 100, state: str = "S"
) -> ProcessRow:
    """A process; its own session unless said otherwise."""
    return ProcessRow(pid, parent, session or pid, start, state, f"p{pid}")


def a_table(*rows: ProcessRow) -> dict[int, ProcessRow]:
    """A process table."""
    return {row.pid: row for row in rows}


def a_record(supervisor: ProcessRow, *others: ProcessRow) -> RunRecord:
    """A run of that supervisor, as recorded on machine HERE."""
    return RunRecord("run-1", HERE, supervisor.identity, tuple(r.identity for r in others))


def pids_owned(
    record: RunRecord, table: dict[int, ProcessRow], marked: set[int] | None = None
) -> set[int]:
    """The pids `find_owned` answers with."""
    marks = marked or set()
    return {p.pid for p in find_owned(record, table, HERE, lambda pid: pid in marks)}


def wait_until(is_true: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    """Look again and again until it is true or the time is over."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    return True


def test_a_name_with_spaces_and_brackets_is_read() -> None:
    """/proc puts the name in brackets and a process may call itself anything."""
    fields = "S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0"
    row = parse_stat(f"42 (a (b) c) {fields}")
    assert (row.pid, row.name, row.parent_pid, row.session_id) == (42, "a (b) c", 1, 7)
    assert row.start_ticks == 4711
    assert not row.is_exiting
    assert replace(row, flags=row.flags | PF_EXITING).is_exiting


def test_a_recorded_pid_given_to_another_process_is_not_ours() -> None:
    """Pids are reused; the start time tells."""
    supervisor, child = a_row(10), a_row(11, session=10)
    stranger = a_row(11, session=99, start=5000)
    assert pids_owned(a_record(supervisor, child), a_table(stranger)) == set()


def test_a_child_born_after_the_last_record_is_ours_through_its_session() -> None:
    """One recorded survivor vouches for the whole session."""
    supervisor, child = a_row(10), a_row(11, session=10)
    late = a_row(12, session=10, start=900)
    assert pids_owned(a_record(supervisor, child), a_table(child, late)) == {11, 12}


def test_a_child_born_after_the_last_record_is_ours_through_its_mark() -> None:
    """With no recorded survivor, the inherited run id vouches for it and for its session."""
    supervisor = a_row(10)
    late, later = a_row(12, session=10, start=900), a_row(13, session=10, start=901)
    table = a_table(late, later)
    assert pids_owned(a_record(supervisor), table, marked={12}) == {12, 13}
    assert pids_owned(a_record(supervisor), table) == set()


def test_a_session_number_taken_over_by_a_stranger_is_not_ours() -> None:
    """A new leader with our old number makes its session somebody else's."""
    supervisor, child = a_row(10), a_row(11, session=10)
    stranger, its_child = a_row(10, start=5000), a_row(20, session=10, start=5001)
    record = a_record(supervisor, child)
    assert pids_owned(record, a_table(stranger, its_child)) == set()


def test_a_record_of_another_boot_owns_nothing() -> None:
    """After a reboot the same pid and start time may be anybody's."""
    supervisor = a_row(10)
    record = a_record(supervisor)
    assert find_owned(record, a_table(supervisor), "other/pid", lambda pid: True) == ()


def test_a_zombie_vouches_but_is_not_to_be_ended() -> None:
    """A zombie keeps the session's number from being reused, and nothing can end it further."""
    supervisor, zombie = a_row(10), a_row(11, session=10, state="Z")
    late = a_row(12, session=10, start=900)
    assert pids_owned(a_record(supervisor, zombie), a_table(zombie, late)) == {12}


def test_the_family_is_the_session_and_every_descendant() -> None:
    """A grandchild that opened its own session is still found through its parents."""
    supervisor = a_row(10)
    table = a_table(
        supervisor,
        a_row(11, parent=10, session=10),
        a_row(12, parent=11),
        a_row(13, parent=1, session=10),
        a_row(14, parent=1),
    )
    assert {p.pid for p in family_of(supervisor.identity, table)} == {11, 12, 13}


@given(
    st.lists(
        st.builds(
            a_row,
            st.integers(11, 30),
            parent=st.integers(1, 30),
            session=st.integers(10, 30),
            start=st.integers(1, 200),
        ),
        max_size=15,
    ),
    st.sets(st.integers(11, 30), max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_nothing_older_than_the_run_and_no_unrelated_session_is_ever_owned(
    rows: list[ProcessRow], recorded: set[int]
) -> None:
    """Whatever the table: an owned process is recorded, or in our session and younger than us."""
    supervisor = a_row(10)
    table = a_table(*rows)
    record = a_record(supervisor, *(table[pid] for pid in recorded if pid in table))
    for process in find_owned(record, table, HERE, lambda pid: False):
        row = table[process.pid]
        is_recorded = process in record.processes
        assert is_recorded or (row.session_id == 10 and row.start_ticks >= 100)


def test_a_record_survives_a_round_trip_and_a_broken_one_reads_as_none(tmp_path: Path) -> None:
    """Half a record must not stop the next start."""
    path = tmp_path / "processes.json"
    record = a_record(a_row(10), a_row(11))
    write_record(path, record)
    assert read_record(path) == record
    path.write_text(path.read_text()[:40])
    assert read_record(path) is None
    assert read_record(tmp_path / "none.json") is None


def test_the_lock_names_its_living_holder_only(tmp_path: Path) -> None:
    """A signature of a dead process names nobody."""
    path = tmp_path / "lock"
    sign_lock(path)
    holder = lock_holder(path)
    assert holder is not None
    assert holder.pid == os.getpid()
    path.write_text(f'{{"pid": {os.getpid()}, "start_ticks": 1, "name": "x"}}')
    assert lock_holder(path) is None
    path.write_text("")
    assert lock_holder(path) is None


def test_a_signal_never_reaches_another_process_with_the_same_pid() -> None:
    """The identity is checked at the moment of the signal."""
    impostor = ProcessIdentity(os.getpid(), 1, "me")
    assert not send_signal(impostor, signal.SIGKILL)


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""
TREE = f"""
import subprocess, sys, time
command = [sys.executable, "-c", {STUBBORN!r}]
first = subprocess.Popen(command, stdout=subprocess.PIPE)
second = subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0)
for child in (first, second):
    child.stdout.readline()
print(first.pid, second.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def tree() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A leader of its own session with two children that ignore SIGTERM."""
    leader = subprocess.Popen(
        [sys.executable, "-c", TREE],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {RUN_ID_VARIABLE: "run-test"},
    )
    assert leader.stdout is not None
    children = [int(pid) for pid in leader.stdout.readline().split()]
    yield leader, children
    for pid in children:
        row = read_process(pid)
        if row is not None and row.session_id == leader.pid:
            send_signal(row.identity, signal.SIGKILL)
    leader.kill()
    leader.wait()
    leader.stdout.close()


def test_children_never_recorded_are_found_and_ended_after_kill_9(
    tree: tuple[subprocess.Popen[str], list[int]],
) -> None:
    """The leader dies between two records; its stubborn children are still ours, and end."""
    leader, children = tree
    row = read_process(leader.pid)
    assert row is not None
    record = RunRecord("run-test", machine_mark(), row.identity, ())
    assert {p.pid for p in family_of(row.identity, read_process_table())} == set(children)
    leader.kill()
    leader.wait()
    assert {p.pid for p in owned_now(record)} == set(children)
    assert end_run(record, grace_s=0.1) == ()
    assert wait_until(lambda: not any(_lives(pid) for pid in children))


def _lives(pid: int) -> bool:
    row = read_process(pid)
    return row is not None and is_alive(row.identity)
