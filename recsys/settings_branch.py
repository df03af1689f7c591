"""What every branch of the settings tree shares: it refuses unknown keys and never changes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Branch(BaseModel):
    """One table of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
