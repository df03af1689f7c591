"""Files of the spool that cannot be read: which are waited for, and when the others go on."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from recsys.errors import StoreError
from recsys.stores.spool.spool import Spool
from recsys.stores.spool.spool_file import GIVE_UP_AFTER_S, SpoolFile
from recsys.stores.spool.spool_folder import adopt_orphans
from recsys.stores.spool.spool_segment import SpooledRecord
from tests.spooled_payloads import MIB, drain, payloads, segments


@dataclass
class Clock:
    """A clock that is set."""

    s: float = 0.0

    def __call__(self) -> float:
        return self.s


def a_spool(directory: Path, now_s: Callable[[], float] = lambda: 0.0) -> Spool:
    """A spool whose files hold four payloads each."""
    return Spool(directory, MIB, segment_bytes=210, now_s=now_s)


def three_files(directory: Path) -> list[Path]:
    """The files that a dead process left."""
    dead = a_spool(directory)
    for first in (0, 4, 8):
        dead.append(payloads(first, 4))
    dead.close()
    return segments(directory)


def fail_with(patch: pytest.MonkeyPatch, number: int, failing: set[int]) -> None:
    """Let the reading of these files fail with an error of the system."""
    load = SpoolFile.load

    def load_or_fail(segment: SpoolFile) -> deque[SpooledRecord]:
        if segment.number in failing:
            raise OSError(number, "it does not work")
        return load(segment)

    patch.setattr(SpoolFile, "load", load_or_fail)


def test_a_file_that_vanished_holds_up_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and said; what is behind it is delivered."""
    three_files(tmp_path / "a")
    spool = a_spool(tmp_path / "a")
    oldest = segments(tmp_path / "a")[0]
    oldest.unlink()
    assert drain(spool) == list(range(4, 12))
    assert (spool.n_corrupt, spool.n_records, segments(tmp_path / "a")) == (1, 0, [])
    assert f"spool {oldest} cannot be read" in caplog.text
    assert "somebody has moved or deleted it" in caplog.text
    spool.append(payloads(12, 1))
    assert drain(spool) == [12]
    spool.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_disk_that_fails_for_a_moment_costs_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The file stays where it is, and a later failure is waited for as long again."""
    clock = Clock()
    file = three_files(tmp_path / "a")[0]
    spool = a_spool(tmp_path / "a", clock)
    with monkeypatch.context() as patch:
        fail_with(patch, number, {int(file.stem)})
        for clock.s in (0.0, GIVE_UP_AFTER_S - 1):
            with pytest.raises(StoreError, match="it does not work"):
                spool.peek(1)
    assert len(spool.peek(1)) == 1
    # With older files before it, it is read again when those are delivered.
    three_files(tmp_path / "b")
    spool.adopt(tmp_path / "b")
    clock.s = GIVE_UP_AFTER_S + 50
    with monkeypatch.context() as patch:
        fail_with(patch, number, {int(file.stem)})
        for _ in range(3):
            spool.peek(4)
            spool.advance(4)
        with pytest.raises(StoreError, match="it does not work"):
            spool.peek(1)
    assert drain(spool) == list(range(12))
    assert spool.n_corrupt == 0
    spool.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_fails_for_minutes_is_left_out_and_can_be_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Given its old name when its process is gone, it is delivered like any other."""
    clock = Clock(7.0)
    broken = three_files(tmp_path / "a")[0]
    spool = a_spool(tmp_path / "a", clock)
    with monkeypatch.context() as patch:
        fail_with(patch, number, {int(broken.stem)})
        for clock.s in (7.0, 7.0 + GIVE_UP_AFTER_S - 1):
            with pytest.raises(StoreError, match="it does not work"):
                spool.peek(1)
            assert (spool.n_records, spool.n_corrupt) == (12, 0)
        clock.s = 7.0 + GIVE_UP_AFTER_S
        assert drain(spool) == list(range(4, 12))
    assert spool.n_corrupt == 1
    spool.close()
    (aside,) = (tmp_path / "a").glob("*.corrupt-*")
    aside.rename(broken)
    alive = a_spool(tmp_path / "alive")
    assert adopt_orphans(alive, tmp_path) == 1
    assert drain(alive) == [0, 1, 2, 3]
    assert not (tmp_path / "a").exists()
    alive.close()


def test_files_of_the_dead_are_waited_for_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the folder is touched before; two that fail at once take no longer than one."""
    clock = Clock()
    files = three_files(tmp_path / "dead")
    alive = a_spool(tmp_path / "alive", clock)
    fail_with(monkeypatch, errno.EIO, {int(path.stem) for path in files[:2]})
    for clock.s in (0.0, GIVE_UP_AFTER_S - 1):
        assert adopt_orphans(alive, tmp_path) == 0
        assert segments(tmp_path / "dead") == files
    clock.s = GIVE_UP_AFTER_S
    assert adopt_orphans(alive, tmp_path) == 1
    assert drain(alive) == [8, 9, 10, 11]
    assert (alive.n_corrupt, len(list((tmp_path / "dead").glob("*.corrupt-*")))) == (2, 2)
    alive.close()
