"""Functions of loops over arrays, compiled to machine code: for what a batch of one pays most.

A NumPy call costs microseconds however few numbers it is about, and a request made hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

from recsys.kernels.kept_code import kept_code_folder

if not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(kept_code_folder() or "")  # type: ignore[attr-defined]

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


def several(*types: Type) -> Type:
    """A tuple of these."""
    return numba.types.Tuple(types)  # type: ignore[no-untyped-call]


def compiled(
    result: Type, *arguments: Type, reorders: bool = False
) -> Callable[[FunctionT], FunctionT]:
    """Compile a function for given types when its module is loaded, so that no request waits.

    Other types are refused. Nothing else is checked inside: whoever calls it answers for shapes
    and bounds. Machine code is kept, see `kept_code`, or where NUMBA_CACHE_DIR says.

    Args:
        result: of the function.
        arguments: of the function.
        reorders: let sums be taken in any order, which is what makes them fast.
    """
    signature = result(*arguments)
    freedom: bool | set[str] = {"reassoc", "contract"} if reorders else False

    def compile_it(function: FunctionT) -> FunctionT:
        def made(is_kept: bool) -> Any:
            return numba.njit(
                signature, cache=is_kept, nogil=True, error_model="numpy", fastmath=freedom
            )(function)

        try:
            kept: FunctionT = made(is_kept=True)
        except RuntimeError:  # nowhere to keep it: a read-only file system
            kept = made(is_kept=False)
        return kept

    return compile_it
