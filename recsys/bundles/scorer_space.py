"""The embedding space of a scorer that was trained on other towers than its bundle retrieves with.

Such a bundle carries the scorer with its own user tower and item vectors in a folder of their own,
in the rows of the bundle's item table. Knows names and facts; `train_app.composing` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=0)]

SCORER_SPACE = "scorer_space"
"""The folder: whatever the scorer stage reads to score, under the names a plain bundle has."""
SCORER_SPACE_FILES = tuple(
    f"{SCORER_SPACE}/{name}"
    for name in (
        "towers.json",
        "user_tower.safetensors",
        "item_vectors.safetensors",
        "scorer.json",
        "scorer.safetensors",
    )
)


@dataclass(frozen=True, slots=True)
class ScorerSpace:
    """What the manifest says of the space that a scorer brought along."""

    fingerprint: Sha256
    """Of the bundle whose towers the scorer was trained on."""
    embedding_dim: Annotated[int, msgspec.Meta(ge=1)]
    n_estimated: Count
    """Items that those towers did not know, whose vectors are estimated from content."""


def of_scorer_space(names: Iterable[str]) -> frozenset[str]:
    """The files of a bundle that lie in the folder."""
    return frozenset(name for name in names if name.startswith(f"{SCORER_SPACE}/"))
