"""Numbered payloads for a spool, and how to get them out again."""

from __future__ import annotations

from pathlib import Path

from recsys.stores.spool.spool import Spool

MIB = 1024 * 1024


def payloads(first: int, n: int, n_bytes: int = 40) -> list[bytes]:
    """Numbered payloads."""
    return [str(number).encode().ljust(n_bytes, b".") for number in range(first, first + n)]


def numbers(found: list[bytes]) -> list[int]:
    """The numbers of payloads."""
    return [int(payload.rstrip(b".")) for payload in found]


def drain(spool: Spool, batch: int = 7) -> list[int]:
    """Everything that waits, read and passed over."""
    found: list[int] = []
    while taken := spool.peek(batch):
        found += numbers(taken)
        spool.advance(len(taken))
    return found


def segments(directory: Path) -> list[Path]:
    """The files that hold payloads."""
    return sorted(directory.glob("*.spool"))
