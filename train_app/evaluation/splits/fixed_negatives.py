"""A published split: which engagement of each user is held out, and which items it ranks among.

Lines of `(user,item)<TAB>item<TAB>item...`, ids as they were imported. All else that is known of
the user is learned from and is the history, as the split has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataError
from recsys.types import NO_ROW, RowArray
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.examples.interactions import Interactions

_HEAD = re.compile(r"\((?P<user>.+),(?P<item>[^,]+)\)")
_EXPECTED = "(user,item), a tab and items with tabs between"


@dataclass(frozen=True)
class NamedQuery:
    """One line of the file."""

    user_id: str
    item_id: str
    negative_ids: tuple[str, ...]


def read_negatives(path: Path) -> list[NamedQuery]:
    """The lines of a file of fixed negatives.

    Raises:
        DataError: it cannot be read, is empty, or a line is something else; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"negatives file {path} cannot be read: {error}") from error
    named = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        head, *negatives = line.strip().split("\t")
        match = _HEAD.fullmatch(head.strip())
        if match is None or not negatives:
            raise DataError(
                f"negatives file {path}, line {number}: found {line[:60]!r}, expected {_EXPECTED}"
            )
        named.append(
            NamedQuery(match["user"].strip(" '\""), match["item"].strip(" '\""), tuple(negatives))
        )
    if not named:
        raise DataError(f"negatives file {path} has no line, expected {_EXPECTED}")
    return named


def hold_out_named(interactions: Interactions, named: list[NamedQuery], source: Path) -> HeldOut:
    """The named engagements held out, each to be ranked among its own candidates.

    Raises:
        DataError: none of them is in the data.
    """
    users = {user_id: place for place, user_id in enumerate(interactions.user_ids)}
    row_of = {item.item_id: row for row, item in enumerate(interactions.items)}
    positions = _positions(interactions, named, users, row_of)
    known = [query for query, at in zip(named, positions, strict=True) if at >= 0]
    if not known:
        raise DataError(
            f"none of the {len(named):,} engagements of {source} is in the data, such as user "
            f"{named[0].user_id!r} with item {named[0].item_id!r}; its ids must be those that were "
            "imported"
        )
    moved, positions = _moved_last(interactions, positions[positions >= 0])
    order = np.argsort(positions)
    owners = moved.user_of_event()[positions]
    is_train = np.ones(len(moved), np.bool_)
    is_train[positions] = False
    candidates = _candidates(known, row_of)
    return HeldOut(
        protocol="ncf",
        interactions=moved,
        is_train=is_train,
        positions=positions[order],
        history_ends=positions[order],
        users=owners[order],
        train_until_ms=None,
        n_repeats=0,
        candidates=candidates[order],
        notes=_notes(named, known, candidates, source),
    )


def _positions(
    interactions: Interactions,
    named: list[NamedQuery],
    users: dict[str, int],
    row_of: dict[str, int],
) -> NDArray[np.int64]:
    """The last engagement of each named user with the named item, -1 for none; a user once."""
    found = np.full(len(named), -1, np.int64)
    taken: set[int] = set()
    for place, query in enumerate(named):
        user, row = users.get(query.user_id), row_of.get(query.item_id)
        if user is None or row is None or user in taken:
            continue
        start, end = interactions.offsets[user], interactions.offsets[user + 1]
        matches = np.flatnonzero(interactions.rows[start:end] == row)
        if len(matches):
            found[place] = start + matches[-1]
            taken.add(user)
    return found


def _moved_last(
    interactions: Interactions, positions: NDArray[np.int64]
) -> tuple[Interactions, NDArray[np.int64]]:
    """The data with the held-out engagements behind all others of their users, and where they are.

    Of events at one time a published split may hold out any: what is left is the history.
    """
    is_held_out = np.zeros(len(interactions), np.bool_)
    is_held_out[positions] = True
    users = interactions.user_of_event()
    order = np.lexsort((np.arange(len(interactions)), is_held_out, users))
    moved = replace(
        interactions,
        rows=interactions.rows[order],
        kind_ids=interactions.kind_ids[order],
        timestamps_ms=interactions.timestamps_ms[order],
        values=interactions.values[order],
        is_prompted=interactions.is_prompted[order],
    )
    return moved, interactions.offsets[users[positions] + 1] - 1


def _candidates(known: list[NamedQuery], row_of: dict[str, int]) -> RowArray:
    width = 1 + max(len(query.negative_ids) for query in known)
    candidates = np.full((len(known), width), NO_ROW, np.int32)
    for place, query in enumerate(known):
        ids = (query.item_id, *query.negative_ids)
        rows = dict.fromkeys(row_of.get(item_id, NO_ROW) for item_id in ids)
        rows.pop(NO_ROW, None)
        candidates[place, : len(rows)] = list(rows)
    return candidates


def _notes(
    named: list[NamedQuery], known: list[NamedQuery], candidates: RowArray, source: Path
) -> tuple[str, ...]:
    n_negatives = (candidates >= 0).sum(axis=1) - 1
    notes = [f"held out and ranked among {int(np.median(n_negatives))} items as {source.name} says"]
    if len(known) < len(named):
        notes.append(f"{len(named) - len(known):,} of its {len(named):,} lines are not in the data")
    n_unknown = sum(len(query.negative_ids) for query in known) - int(n_negatives.sum())
    if n_unknown:
        notes.append(f"{n_unknown:,} of its negatives are not in the catalogue or are repeated")
    return tuple(notes)
