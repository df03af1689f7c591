"""`python -m recsys.kernels` compiles what is not compiled yet: for a set-up or an image."""

from recsys.kernels import (
    candidate_lists,
    chosen,
    dropped,
    found,
    inner_product,
    log_chances,
    neighbours,
    row_table,
    scorer_arrays,
    seeded_draws,
    slate_pool,
    slates,
    tower_tokens,
    traits,
)

__all__ = [
    "candidate_lists",
    "chosen",
    "dropped",
    "found",
    "inner_product",
    "log_chances",
    "neighbours",
    "row_table",
    "scorer_arrays",
    "seeded_draws",
    "slate_pool",
    "slates",
    "tower_tokens",
    "traits",
]
