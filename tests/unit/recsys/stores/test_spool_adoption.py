"""Who owns a spool's folder, and how what the dead left comes to the living."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from recsys.stores.spool.spool import Spool
from recsys.stores.spool.spool_file import SpoolFile
from recsys.stores.spool.spool_folder import adopt_orphans, own_spool
from tests.spooled_payloads import MIB, drain, numbers, payloads, segments


def test_what_dead_processes_left_comes_first(tmp_path: Path) -> None:
    """Their folders are taken over, oldest first, from where they had come to; living ones not."""
    old = own_spool(tmp_path, "gateway#old", MIB)
    old.append(payloads(0, 6))
    assert numbers(old.peek(2)) == [0, 1]
    old.advance(2)
    young = own_spool(tmp_path, "gateway/young", MIB)
    young.append(payloads(6, 4))
    alive = own_spool(tmp_path, "alive", MIB)
    alive.append(payloads(100, 1))
    old.close()
    young.close()
    os.utime(old.directory, (1, 1))

    heir = own_spool(tmp_path, "heir", MIB)
    heir.append(payloads(10, 2))
    assert drain(heir) == list(range(2, 12))
    assert not old.directory.exists()
    assert not young.directory.exists()
    assert drain(alive) == [100]
    heir.close()
    alive.close()


def test_a_running_process_takes_over_while_it_has_events_of_its_own(tmp_path: Path) -> None:
    """The dead process's events go before those that wait already."""
    dead = own_spool(tmp_path, "dead", MIB)
    dead.append(payloads(0, 3))
    alive = own_spool(tmp_path, "alive", MIB)
    alive.append(payloads(3, 3))
    assert numbers(alive.peek(1)) == [3]
    dead.close()
    assert adopt_orphans(alive, tmp_path) == 1
    assert drain(alive) == list(range(6))
    assert adopt_orphans(alive, tmp_path) == 0
    alive.close()


def left_by_the_dead(root: Path, name: str, start: int) -> Path:
    """A folder with three files of four payloads each; the first payload was passed over."""
    dead = Spool(root / name, MIB, segment_bytes=210)
    for first in range(start, start + 12, 4):
        dead.append(payloads(first, 4))
    dead.peek(1)
    dead.advance(1)
    dead.close()
    assert len(segments(root / name)) == 3
    return root / name


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_a_file_that_cannot_be_read_now_is_taken_over_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_before: int
) -> None:
    """Nothing of its folder is moved; another folder's files do not take its place."""
    alive = own_spool(tmp_path, "alive", MIB)
    left_by_the_dead(tmp_path, "dead-a", 0)
    load, n_loads = SpoolFile.load, 0

    def fail(segment: SpoolFile) -> object:
        nonlocal n_loads
        n_loads += 1
        if n_loads > n_before:
            raise OSError(errno.EMFILE, "too many open files")
        return load(segment)

    monkeypatch.setattr(SpoolFile, "load", fail)
    assert adopt_orphans(alive, tmp_path) == 0
    monkeypatch.undo()
    assert (alive.n_records, segments(alive.directory)) == (0, [])
    left_by_the_dead(tmp_path, "dead-b", 100)
    assert adopt_orphans(alive, tmp_path) == 6
    assert alive.n_records == 22
    assert sorted(drain(alive)) == [*range(1, 12), *range(101, 112)]
    alive.close()


@pytest.mark.parametrize("n_before", range(4))
def test_files_that_cannot_be_moved_now_follow_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_before: int
) -> None:
    """What was moved is in the queue, the rest where it was; nothing is overwritten or skipped."""
    alive = own_spool(tmp_path, "alive", MIB)
    left_by_the_dead(tmp_path, "dead-a", 0)
    left_by_the_dead(tmp_path, "dead-b", 100)
    rename, n_renames = Path.rename, 0

    def fail(path: Path, target: Path) -> Path:
        nonlocal n_renames
        n_renames += 1
        if n_renames > n_before:
            raise OSError(errno.EIO, "input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    adopt_orphans(alive, tmp_path)
    monkeypatch.undo()
    n_moved = len(segments(alive.directory))
    assert n_moved == min(n_before, 2) + (n_before > 3)
    assert alive.n_records == 4 * n_moved
    alive.close()
    again = own_spool(tmp_path, "again", MIB)
    found = drain(again)
    # The position of a file whose move failed half way is lost: then its first is there again.
    assert {*range(1, 12), *range(101, 112)} <= set(found) <= {*range(12), *range(100, 112)}
    assert len(found) == len(set(found))
    again.close()


def unreadable(path: Path, kind: str) -> None:
    """Put something that root cannot read either in the place of a file."""
    path.unlink()
    if kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("kind", ["directory", "dangling link"])
def test_a_file_that_will_never_be_read_holds_up_nobody(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept under another name, counted and said once; the other files' events go on."""
    alive = own_spool(tmp_path, "alive", MIB)
    folder = left_by_the_dead(tmp_path, "dead", 0)
    middle = segments(folder)[1]
    unreadable(middle, kind)
    assert adopt_orphans(alive, tmp_path) == 2
    assert drain(alive) == [1, 2, 3, 8, 9, 10, 11]
    assert alive.n_corrupt == 1
    (aside,) = folder.glob("*.corrupt-*")
    assert aside.name.startswith(f"{middle.name}.corrupt-")
    assert f"spool {middle} cannot be read" in caplog.text
    assert adopt_orphans(alive, tmp_path) == 0
    assert alive.n_corrupt == 1
    alive.close()


def test_damage_in_every_file_of_the_dead_loses_only_what_is_damaged(tmp_path: Path) -> None:
    """One cut short, one with a changed byte, one unreadable: the rest is delivered in order."""
    alive = own_spool(tmp_path, "alive", MIB)
    folder = left_by_the_dead(tmp_path, "dead", 0)
    cut, changed, gone = segments(folder)
    os.truncate(cut, cut.stat().st_size - 10)
    data = bytearray(changed.read_bytes())
    data[70] ^= 0xFF
    changed.write_bytes(data)
    unreadable(gone, "directory")
    assert adopt_orphans(alive, tmp_path) == 2
    assert drain(alive) == [1, 2, 4, 6, 7]
    assert alive.n_corrupt == 2
    alive.close()


def test_a_file_that_breaks_after_it_was_taken_over_is_left_out(tmp_path: Path) -> None:
    """A disk may fail at any time; what is behind the file is delivered all the same."""
    alive = own_spool(tmp_path, "alive", MIB)
    left_by_the_dead(tmp_path, "dead", 0)
    adopt_orphans(alive, tmp_path)
    unreadable(segments(alive.directory)[0], "dangling link")
    assert drain(alive) == [4, 5, 6, 7, 8, 9, 10, 11]
    assert (alive.n_corrupt, alive.n_records) == (1, 0)
    alive.close()
