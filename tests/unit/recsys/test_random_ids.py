"""Ids are unique, across threads and forks too."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

from recsys.random_ids import random_id


def test_ids_of_all_threads_differ() -> None:
    """More than are drawn at once, in each of four threads."""
    with ThreadPoolExecutor(4) as threads:
        made = [one for part in threads.map(_some, [700] * 4) for one in part]
    assert len(set(made)) == len(made) == 2_800
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in made)


def test_a_child_does_not_give_out_the_ids_of_its_parent() -> None:
    """What the parent had drawn before the fork stays the parent's."""
    random_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(_some(100)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        theirs = said.read().split()
    os.waitpid(child, 0)
    assert len(theirs) == 100
    assert not set(theirs) & set(_some(1_000))


def _some(n: int) -> list[str]:
    return [random_id() for _ in range(n)]
