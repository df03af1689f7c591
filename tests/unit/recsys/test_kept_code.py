"""Where machine code is kept: beside the sources, or a copy that nobody else can write to."""

from __future__ import annotations

import pkgutil
import stat
import tempfile
from pathlib import Path

import pytest

import recsys.kernels
import recsys.kernels.__main__ as everything
from recsys.kernels import kept_code
from recsys.kernels.kept_code import kept_code_folder


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources, and an empty temporary folder."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "loops.py").write_text("one")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(kept_code, "_SOURCES", folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return folder


def test_code_is_kept_beside_its_sources_and_by_their_content(sources: Path) -> None:
    """A function of one file is built into those of others, so any change begins anew."""
    first = kept_code_folder()
    assert first is not None
    assert first.parent.parent == sources
    assert kept_code_folder() == first
    (sources / "loops.py").write_text("two")
    second = kept_code_folder()
    assert second is not None
    assert second != first


def test_where_sources_are_read_only_a_private_copy_has_what_was_compiled(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image's code serves whoever starts from it."""
    beside = kept_code_folder()
    assert beside is not None
    (beside / "f.nbc").write_bytes(b"code")
    # As root nothing is read only; what is asked of the folder is.
    monkeypatch.setattr(kept_code.os, "access", lambda *_: False)
    copy = kept_code_folder()
    assert copy is not None
    assert copy.parent.name == "tmp"
    assert (copy / "f.nbc").read_bytes() == b"code"
    assert not stat.S_IMODE(copy.stat().st_mode) & 0o077
    assert kept_code_folder() == copy


def test_a_folder_that_others_can_write_to_is_not_read(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is pickled: who writes it, runs code here."""
    beside = kept_code_folder()
    assert beside is not None
    (beside / "planted.nbc").write_bytes(b"code")
    beside.chmod(0o777)
    copy = kept_code_folder()
    assert copy not in {None, beside}
    assert copy is not None
    assert not list(copy.iterdir())
    copy.chmod(0o777)
    other = kept_code_folder()
    assert other not in {None, beside, copy}


def test_without_any_place_nothing_is_kept(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service starts all the same."""
    monkeypatch.setattr(kept_code, "_is_closed", lambda _: False)
    monkeypatch.setattr(tempfile, "tempdir", str(sources / "nowhere"))
    assert kept_code_folder() is None


def test_a_set_up_compiles_all_there_is() -> None:
    """Importing a module is what compiles its functions."""
    modules = {module.name for module in pkgutil.iter_modules(recsys.kernels.__path__)}
    assert set(everything.__all__) == modules - {"__main__", "compiled", "kept_code"}
