"""What a verb of `python -m train_app` hands back to be printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recsys.errors import RecsysError


@dataclass(frozen=True)
class Outcome:
    """A verb's result in both forms, and the error to end with once it has been printed."""

    document: dict[str, Any]
    text: str
    error: RecsysError | None = None
