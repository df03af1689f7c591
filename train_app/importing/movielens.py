"""The file layouts that MovieLens data sets come in: which file is what, and its columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from train_app.importing.raw_batch import Dialect

_LATIN: Final = "latin-1"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file whose columns are known: `columns` names them where it has no header."""

    path: Path
    dialect: Dialect
    columns: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    """Columns of 0 and 1 whose names are categories."""


@dataclass(frozen=True, slots=True)
class MovieLensFiles:
    """The files of one data set; items and users where they are there."""

    engagements: KnownFile
    items: KnownFile | None
    users: KnownFile | None


def find_movielens(folder: Path) -> MovieLensFiles | None:
    """The files of a MovieLens folder, None where it is none."""
    for name, layout in (
        ("ratings.dat", _double_colon),
        ("u.data", _tabs),
        ("ratings.csv", _commas),
    ):
        if (folder / name).is_file():
            return layout(folder)
    return None


def _double_colon(folder: Path) -> MovieLensFiles:
    dialect = Dialect("::", has_header=False, quoting=False, encoding=_LATIN)
    users = ("user_id", "gender", "age", "occupation", "zip")
    return MovieLensFiles(
        KnownFile(folder / "ratings.dat", dialect, ("user_id", "item_id", "value", "timestamp")),
        _if_there(folder / "movies.dat", dialect, ("item_id", "title", "categories")),
        _if_there(folder / "users.dat", dialect, users),
    )


def _tabs(folder: Path) -> MovieLensFiles:
    dialect = Dialect("\t", has_header=False, quoting=False, encoding=_LATIN)
    bars = Dialect("|", has_header=False, quoting=False, encoding=_LATIN)
    names = folder / "u.genre"
    lines = names.read_text(encoding=_LATIN).splitlines() if names.is_file() else []
    genres = tuple(line.split("|")[0] for line in lines if "|" in line)
    items = ("item_id", "title", "released", "video_released", "address", *genres)
    return MovieLensFiles(
        KnownFile(folder / "u.data", dialect, ("user_id", "item_id", "value", "timestamp")),
        _if_there(folder / "u.item", bars, items, genres) if genres else None,
        _if_there(folder / "u.user", bars, ("user_id", "age", "gender", "occupation", "zip")),
    )


def _commas(folder: Path) -> MovieLensFiles:
    dialect = Dialect(",", encoding=_LATIN)
    return MovieLensFiles(
        KnownFile(folder / "ratings.csv", dialect),
        _if_there(folder / "movies.csv", dialect),
        None,
    )


def _if_there(
    path: Path, dialect: Dialect, columns: tuple[str, ...] = (), flags: tuple[str, ...] = ()
) -> KnownFile | None:
    return KnownFile(path, dialect, columns, flags) if path.is_file() else None
