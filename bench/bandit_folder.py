"""Reads the log of a bandit policy from a folder of CSV files, and a policy's choices out of it.

A folder has a file of rounds (item_id, position, click, propensity_score, user features and
affinities) and `item_context.csv`. Knows columns, no estimator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from recsys.errors import DataError
from recsys.off_policy.cross_fitting import RewardFeatures

Values = NDArray[np.float64]
_ITEM_FILE = "item_context.csv"


@dataclass(frozen=True, slots=True)
class BanditRounds:
    """One policy's rounds; A items, K positions."""

    chosen: NDArray[np.int64]  # [R], item
    positions: NDArray[np.int64]  # [R], from 0
    rewards: Values  # [R], 1 where it was clicked
    propensities: Values  # [R], of the item at its position
    user_features: Values  # [R, C], one-hot
    affinities: Values  # [R, A]
    item_features: Values  # [A, I]

    @property
    def n_items(self) -> int:
        """Items there are to choose from."""
        return len(self.item_features)

    def reward_features(self) -> RewardFeatures:
        """What a click may depend on: user, position, item, and the user's affinity to it."""
        places = np.eye(int(self.positions.max()) + 1)[self.positions]
        return RewardFeatures(
            context=np.concatenate([self.user_features, places], axis=1),
            choices=np.concatenate([np.eye(self.n_items), self.item_features], axis=1),
            pairs=np.minimum(self.affinities, 1.0)[:, :, None],
        )

    def head(self, n_rounds: int) -> BanditRounds:
        """The first rounds."""
        kept = slice(n_rounds)
        return BanditRounds(
            self.chosen[kept],
            self.positions[kept],
            self.rewards[kept],
            self.propensities[kept],
            self.user_features[kept],
            self.affinities[kept],
            self.item_features,
        )


def read_rounds(folder: Path) -> BanditRounds:
    """The rounds of a folder.

    Raises:
        DataError: a file or a column is missing.
    """
    files = [path for path in sorted(folder.glob("*.csv")) if path.name != _ITEM_FILE]
    if len(files) != 1 or not (folder / _ITEM_FILE).is_file():
        raise DataError(
            f"{folder} has {len(files)} files of rounds, expected one beside {_ITEM_FILE}; name the"
            " folder of one policy and campaign"
        )
    rows = pa_csv.read_csv(files[0])
    try:
        affinity_names = _numbered(rows.column_names, "user-item_affinity_")
        feature_names = _numbered(rows.column_names, "user_feature_")
        return BanditRounds(
            chosen=rows["item_id"].to_numpy().astype(np.int64),
            positions=rows["position"].to_numpy().astype(np.int64) - 1,
            rewards=rows["click"].to_numpy().astype(np.float64),
            propensities=rows["propensity_score"].to_numpy().astype(np.float64),
            user_features=np.concatenate([_one_hot(rows[name]) for name in feature_names], axis=1),
            affinities=np.stack([rows[name].to_numpy() for name in affinity_names], axis=1),
            item_features=_read_items(folder / _ITEM_FILE),
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{files[0]} is no log of a bandit policy: {error}") from error


def choice_frequencies(rounds: BanditRounds, prior: float = 1.0) -> Values:
    """A policy's average choices by position, from how often it chose each item there, [K, A].

    A plug-in for a policy whose log has only the propensity of what was shown, and that does not
    look at the user: it reads actions and no rewards. The prior counts every item that often more,
    spread over items, so that an item it happened not to show is not impossible.
    """
    n_positions = int(rounds.positions.max()) + 1
    counts = np.full((n_positions, rounds.n_items), prior / rounds.n_items)
    np.add.at(counts, (rounds.positions, rounds.chosen), 1.0)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _read_items(path: Path) -> Values:
    rows = pa_csv.read_csv(path)
    order = np.argsort(rows["item_id"].to_numpy())
    parts = []
    for name in _numbered(rows.column_names, "item_feature_"):
        column = rows[name]
        if column.type == "double":
            values = column.to_numpy()
            parts.append(((values - values.mean()) / max(float(values.std()), 1e-9))[:, None])
        elif len(column.unique()) <= len(column) // 2:  # else it is as good as the item's id
            parts.append(_one_hot(column))
    return np.asarray(np.concatenate(parts, axis=1)[order])


def _numbered(names: list[str], prefix: str) -> list[str]:
    found = [name for name in names if name.startswith(prefix)]
    if not found:
        raise KeyError(f"no column {prefix}0")
    return sorted(found, key=lambda name: int(name.removeprefix(prefix)))


def _one_hot(column: object) -> Values:
    _, codes = np.unique(np.asarray(column, dtype=str), return_inverse=True)
    return np.asarray(np.eye(int(codes.max()) + 1)[codes])
