"""A process that changes users while reads are measured, until it is stopped.

`python -m bench.feature_writes SETTINGS_JSON N_USERS`
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

from recsys.settings import Settings
from recsys.stores.features.feature_update import MergedUsers
from recsys.stores.features.open_features import open_feature_writer
from recsys.types import UserState

USERS_PER_WRITE = 100
PAUSE_S = 0.1


def main(settings_json: str, n_users: int) -> None:
    """Change some users, pause, and so on."""
    writer = open_feature_writer(Settings.model_validate_json(settings_json))
    rng = random.Random(2)
    print("READY", flush=True)
    while True:
        users = [f"u{rng.randrange(n_users)}" for _ in range(USERS_PER_WRITE)]
        writer.merge_users(users, _raised)
        time.sleep(PAUSE_S)


def _raised(states: Mapping[str, UserState]) -> MergedUsers:
    changed = (replace(state, version=state.version + 1) for state in states.values())
    return MergedUsers(tuple(changed))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
