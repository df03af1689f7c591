"""Which processes are ours, and how they are ended. Never by name.

A process is ours if its pid and start time stand in the run's record, if its environment carries
the run's id, or if it sits in the supervisor's session while that session provably is still ours:
the kernel does not give a session's number away while a member lives, so one identified member
vouches for all, also for those born after the last record was written.
The record's only writer is `cluster.local.supervisor`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.local.run_files import read_document, write_document

PROC = Path("/proc")
RUN_ID_VARIABLE = "FLYWHEEL_RUN_ID"
"""Set in the supervisor's environment and inherited by all it starts."""
PF_EXITING = 0x4
"""Linux: the process has begun to exit."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process for good: a pid alone is given again, a pid with its start time is not."""

    pid: int
    start_ticks: int
    """Start time in clock ticks since boot (field 22 of /proc/PID/stat)."""
    name: str


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One line of the process table."""

    pid: int
    parent_pid: int
    session_id: int
    start_ticks: int
    state: str
    name: str
    flags: int = 0
    """Of the kernel, `PF_*`."""

    @property
    def identity(self) -> ProcessIdentity:
        """What names this process for good."""
        return ProcessIdentity(self.pid, self.start_ticks, self.name)

    @property
    def is_dead(self) -> bool:
        """A zombie runs nothing and holds no port; only its parent can remove it."""
        return self.state in {"Z", "X"}

    @property
    def is_exiting(self) -> bool:
        """It runs nothing any more, but holds ports and locks until its memory is freed."""
        return self.is_dead or bool(self.flags & PF_EXITING)


ProcessTable = Mapping[int, ProcessRow]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What one `cluster up` started, as last seen."""

    run_id: str
    machine: str
    supervisor: ProcessIdentity
    processes: tuple[ProcessIdentity, ...]


def machine_mark(proc: Path = PROC) -> str:
    """This boot and this process namespace: elsewhere a recorded pid means nothing."""
    boot_id = (proc / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id}/{(proc / 'self/ns/pid').readlink().name}"


def parse_stat(text: str) -> ProcessRow:
    """One /proc/PID/stat line; the name may itself hold spaces and brackets."""
    head, _, tail = text.rpartition(")")
    pid, _, name = head.partition(" (")
    fields = tail.split()
    return ProcessRow(
        pid=int(pid),
        state=fields[0],
        parent_pid=int(fields[1]),
        session_id=int(fields[3]),
        start_ticks=int(fields[19]),
        name=name,
        flags=int(fields[6]),
    )


def read_process_table(proc: Path = PROC) -> dict[int, ProcessRow]:
    """All processes of this namespace; one that ends meanwhile is left out."""
    table: dict[int, ProcessRow] = {}
    for entry in os.scandir(proc):
        if entry.name.isdigit():
            row = read_process(int(entry.name), proc)
            if row is not None:
                table[row.pid] = row
    return table


def read_process(pid: int, proc: Path = PROC) -> ProcessRow | None:
    """One process, or None if there is none of that pid."""
    try:
        return parse_stat((proc / str(pid) / "stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def carries_run_id(pid: int, run_id: str, proc: Path = PROC) -> bool:
    """Whether the process was born with the run's id in its environment.

    A process that rewrites its title loses the readable copy; then this says no.
    """
    try:
        environment = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{RUN_ID_VARIABLE}={run_id}".encode() in environment.split(b"\0")


def family_of(supervisor: ProcessIdentity, table: ProcessTable) -> tuple[ProcessIdentity, ...]:
    """A living supervisor's whole family: its session and every descendant, itself left out."""
    children: dict[int, list[ProcessRow]] = {}
    for row in table.values():
        children.setdefault(row.parent_pid, []).append(row)
    found = {row.pid: row for row in table.values() if row.session_id == supervisor.pid}
    frontier = [supervisor.pid, *found]
    while frontier:
        for row in children.get(frontier.pop(), ()):
            if row.pid not in found:
                found[row.pid] = row
                frontier.append(row.pid)
    found.pop(supervisor.pid, None)
    ordered = sorted(found.values(), key=lambda row: (row.start_ticks, row.pid))
    return tuple(row.identity for row in ordered if not row.is_dead)


def find_owned(
    record: RunRecord, table: ProcessTable, machine: str, is_marked: Callable[[int], bool]
) -> tuple[ProcessIdentity, ...]:
    """The processes of a recorded run that still live, the supervisor among them.

    Args:
        record: the run.
        table: the present process table.
        machine: `machine_mark()` of now; a record of another boot owns nothing.
        is_marked: whether the process of that pid carries the run's id.
    """
    if record.machine != machine:
        return ()
    recorded = {(p.pid, p.start_ticks) for p in (record.supervisor, *record.processes)}
    born = record.supervisor.start_ticks
    certain = {
        row.pid
        for row in table.values()
        if (row.pid, row.start_ticks) in recorded
        or (row.start_ticks >= born and is_marked(row.pid))
    }
    session = record.supervisor.pid
    leader = table.get(session)
    taken_over = leader is not None and leader.start_ticks != born
    vouched = not taken_over and any(table[pid].session_id == session for pid in certain)
    owned = set(certain)
    if vouched:
        owned |= {
            row.pid
            for row in table.values()
            if row.session_id == session and row.start_ticks >= born
        }
    living = [table[pid] for pid in owned if not table[pid].is_dead]
    return tuple(row.identity for row in sorted(living, key=lambda r: (r.start_ticks, r.pid)))


def owned_now(record: RunRecord) -> tuple[ProcessIdentity, ...]:
    """`find_owned` on this machine, now; the calling process is never among them."""
    owned = find_owned(
        record,
        read_process_table(),
        machine_mark(),
        lambda pid: carries_run_id(pid, record.run_id),
    )
    return tuple(process for process in owned if process.pid != os.getpid())


def is_alive(process: ProcessIdentity) -> bool:
    """Whether exactly this process still runs."""
    row = read_process(process.pid)
    return row is not None and row.start_ticks == process.start_ticks and not row.is_dead


def send_signal(process: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal exactly this process; False if it is gone, whoever has its pid now."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def end_run(record: RunRecord, grace_s: float) -> tuple[ProcessIdentity, ...]:
    """End every living process of the run: SIGTERM, and SIGKILL after the grace.

    Looks again after each round, so that a child born meanwhile is ended too.

    Returns:
        The processes that survived even that; empty if all is well.
    """
    deadline = time.monotonic() + grace_s
    for process in owned_now(record):
        send_signal(process, signal.SIGTERM)
    while owned_now(record) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(50):
        remaining = owned_now(record)
        if not remaining:
            return ()
        for process in remaining:
            send_signal(process, signal.SIGKILL)
        time.sleep(0.1)
    return owned_now(record)


def describe(processes: Iterable[ProcessIdentity]) -> str:
    """Processes as a phrase: `raylet (812), haproxy (840)`."""
    return ", ".join(f"{process.name} ({process.pid})" for process in processes)


def write_record(path: Path, record: RunRecord) -> None:
    """Replace the record at once; a reader sees the old one or the new one."""
    write_document(path, asdict(record))


def sign_lock(path: Path) -> None:
    """Write this process's identity into the lock file it holds."""
    row = read_process(os.getpid())
    path.write_text("" if row is None else json.dumps(asdict(row.identity)))


def lock_holder(path: Path) -> ProcessIdentity | None:
    """The process that signed the lock file; None if it is gone or on its way out."""
    document = read_document(path)
    try:
        holder = None if document is None else ProcessIdentity(**document)
    except TypeError:
        return None
    row = None if holder is None else read_process(holder.pid)
    if holder is None or row is None or row.is_exiting:
        return None
    return holder if row.start_ticks == holder.start_ticks else None


def read_record(path: Path) -> RunRecord | None:
    """The record, or None if there is none that can be read."""
    document = read_document(path)
    if document is None:
        return None
    try:
        return RunRecord(
            run_id=document["run_id"],
            machine=document["machine"],
            supervisor=ProcessIdentity(**document["supervisor"]),
            processes=tuple(ProcessIdentity(**entry) for entry in document["processes"]),
        )
    except (KeyError, TypeError):
        return None
