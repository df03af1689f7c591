"""What listens on this machine, and what the table of ports in `docs/security.md` says of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from recsys.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
HEADING = "| what | listens on | port |"
LOOPBACK = ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]")
NAME_LENGTH = 15
"""What the kernel keeps of a process's name."""
_USER = re.compile(r'\("([^"]+)",pid=(\d+)')
_CODE = re.compile(r"`([^`]+)`")
_RANGE = re.compile(r"(\d+) to (\d+)")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket."""

    process: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PortRow:
    """A row of the table, for one machine with these settings."""

    what: str
    processes: tuple[str, ...]
    """Beginnings of their names."""
    is_everywhere: bool
    """It listens on all interfaces; else on the loopback address."""
    ports: range

    def covers(self, listener: Listener) -> bool:
        """Whether the row speaks of this socket."""
        is_local = listener.host in LOOPBACK
        return (
            listener.process.startswith(self.processes)
            and is_local is not self.is_everywhere
            and listener.port in self.ports
        )


def documented_ports(settings: Settings) -> list[PortRow]:
    """The rows of the page, for a laptop: the node's address is the loopback address."""
    text = PAGE.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n\n")[0]
    rows = []
    for line in text.splitlines()[2:]:
        what, host, port, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        rows.append(
            PortRow(
                what.partition(" (")[0],
                tuple(name[:NAME_LENGTH] for name in _CODE.findall(what)),
                host.startswith("all interfaces"),
                _ports(port, settings),
            )
        )
    return rows


def listeners(pids: Collection[int]) -> list[Listener]:
    """What these processes listen on, as `ss -ltnp` shows it."""
    shown = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    found = set()
    for line in shown.splitlines():
        host, _, port = line.split()[3].rpartition(":")
        for process, pid in _USER.findall(line):
            if int(pid) in pids:
                found.add(Listener(process, host, int(port)))
    return sorted(found, key=lambda one: (one.process, one.host, one.port))


def _ports(cell: str, settings: Settings) -> range:
    """The ports a cell names: a setting, a range, or any free one."""
    if named := _CODE.findall(cell):
        branch, _, field = named[0].partition(".")
        port = int(getattr(getattr(settings, branch), field))
        return range(port, port + 1)
    if bounds := _RANGE.search(cell):
        return range(int(bounds[1]), int(bounds[2]) + 1)
    return range(1024, 65_536)
