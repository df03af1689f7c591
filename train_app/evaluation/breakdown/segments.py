"""The same figures by kind of user, item and device.

Pure: masks over queries and their metrics.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from train_app.evaluation.breakdown.query_traits import HEAD_SHARE, QueryTraits
from train_app.evaluation.breakdown.report_section import Cell, Section
from train_app.evaluation.metrics import Values, bootstrap_mean

FEW_EVENTS = 5
MANY_EVENTS = 50
FEW_ENGAGEMENTS = 5
MAX_DEVICES = 6


def segments(traits: QueryTraits) -> dict[str, NDArray[np.bool_]]:
    """Which queries are in each segment, by its name; segments without a query are left out."""
    n, m = traits.n_history, traits.n_target
    is_new_item = m < FEW_ENGAGEMENTS
    found = {
        "all": np.ones(len(n), np.bool_),
        f"users, under {FEW_EVENTS} events": n < FEW_EVENTS,
        f"users, {FEW_EVENTS} to {MANY_EVENTS - 1}": (n >= FEW_EVENTS) & (n < MANY_EVENTS),
        f"users, {MANY_EVENTS} and more": n >= MANY_EVENTS,
        "new items": is_new_item,
        "tail items": ~is_new_item & ~traits.in_head,
        "head items": ~is_new_item & traits.in_head,
    }
    if traits.is_prompted.any():
        found["reactions to a slate"] = traits.is_prompted
        found["without a slate"] = ~traits.is_prompted
    names, counts = np.unique(traits.devices[traits.devices != ""], return_counts=True)
    for name in names[np.argsort(-counts, kind="stable")][:MAX_DEVICES]:
        found[f"device {name}"] = traits.devices == name
    return {name: mask for name, mask in found.items() if mask.any()}


def segment_section(
    metric: str,
    values: Mapping[str, Values],
    traits: QueryTraits,
    seed: int,
    gain: tuple[str, str] | None = None,
) -> Section:
    """One row per segment: queries, users, the metric of each method and the gain of one.

    Args:
        values: [Q] of the metric, by method.
        gain: two of the methods; the first minus the second is the column `gain`.
    """
    columns = ["segment", "n", "users", *values]
    if gain is not None:
        columns.append("gain")
    rows: list[tuple[Cell, ...]] = []
    for name, mask in segments(traits).items():
        users = traits.users[mask]
        cells: list[Cell] = [name, int(mask.sum()), len(np.unique(users))]
        cells += [bootstrap_mean(found[mask], users, seed) for found in values.values()]
        if gain is not None:
            difference = values[gain[0]] - values[gain[1]]
            cells.append(bootstrap_mean(difference[mask], users, seed))
        rows.append(tuple(cells))
    note = (
        f"head: the fewest items that hold {HEAD_SHARE:.0%} of the training engagements; tail: the "
        f"others; new: under {FEW_ENGAGEMENTS} of them"
    )
    title = f"{metric} by segment" + ("" if gain is None else f"; gain: {gain[0]} - {gain[1]}")
    return Section("segments", title, tuple(columns), tuple(rows), (note,))
