"""Functions of loops over arrays, compiled to machine code: for what a batch of one pays most.

A NumPy call costs microseconds however few numbers it is about, and a request made hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])
Type = Any
"""A type as numba knows it."""

FLOAT: Type = numba.float64
INT: Type = numba.int64
BOOL: Type = numba.boolean
WORD: Type = numba.uint64
NOTHING: Type = numba.void


def given(dtype: Type, n_dims: int) -> Type:
    """A contiguous array that is read only; one that may be written fits it too."""
    return numba.types.Array(dtype, n_dims, "C", readonly=True)


def written(dtype: Type, n_dims: int) -> Type:
    """A contiguous array that the function fills."""
    return numba.types.Array(dtype, n_dims, "C")


def compiled(
    result: Type, *arguments: Type, reorders: bool = False
) -> Callable[[FunctionT], FunctionT]:
    """Compile a function for given types when its module is loaded, so that no request waits.

    Other types are refused. Nothing else is checked inside: whoever calls it answers for shapes
    and bounds. Machine code is kept beside the module, or where NUMBA_CACHE_DIR says, so that only
    the first process on a machine compiles.

    Args:
        result: of the function.
        arguments: of the function.
        reorders: let sums be taken in any order, which is what makes them fast.
    """
    options: dict[str, object] = {"nogil": True, "error_model": "numpy"}
    if reorders:
        options["fastmath"] = {"reassoc", "contract"}

    def compile_it(function: FunctionT) -> FunctionT:
        signature = result(*arguments)
        try:
            made: FunctionT = numba.njit(signature, cache=True, **options)(function)
        except RuntimeError:  # nowhere to keep it: a read-only file system
            made = numba.njit(signature, **options)(function)
        return made

    return compile_it
