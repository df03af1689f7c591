"""Every error a caller can meet, as one tree; an edge maps each branch to an exit code or a status.

RecsysError
  ConfigError             the settings cannot be used                 -> exit 2
  DataError               input data cannot be used                   -> exit 1
    DataRefused           data checks or the gate refused             -> exit 6
  BundleError             a bundle is missing, broken or does not fit -> exit 1
    BundleNotFound
    BundleCorrupt
    BundleUntrusted
    SpaceMismatch
    FeatureSchemaMismatch
  StoreError              a store could not be read or written        -> exit 1
  RequestError            the caller's request is wrong               -> HTTP 4xx
  Overloaded              shed on purpose                             -> HTTP 503
  DeadlineExceeded        ran out of time                             -> HTTP 504
  FleetError              Ray did not do what was asked               -> exit 3
  RolloutConflict         somebody else changed the rollout           -> exit 4
  AbortedByEvidence       the rollout was aborted by what was found   -> exit 5
  WaitTimeout             waited as long as was asked                 -> exit 7

A message is one sentence: what, the value, what was expected, what to do.
"""

from __future__ import annotations


class RecsysError(Exception):
    """The root: anything Flywheel reports to a person on purpose."""

    exit_code = 1


class ConfigError(RecsysError):
    """The settings cannot be used."""

    exit_code = 2


class DataError(RecsysError):
    """Input data cannot be used."""


class DataRefused(DataError):
    """Data checks or the gate said no; nothing was published."""

    exit_code = 6


class BundleError(RecsysError):
    """A bundle is missing, broken or does not fit."""


class BundleNotFound(BundleError):
    """No bundle of that id is in the registry."""


class BundleCorrupt(BundleError):
    """A file of the bundle is missing, changed, truncated or not named in its manifest."""


class BundleUntrusted(BundleError):
    """Nobody who is trusted has signed the bundle."""


class SpaceMismatch(BundleError):
    """A vector of one embedding space met an index or tower of another."""


class FeatureSchemaMismatch(BundleError):
    """A bundle was trained on another feature schema than the one it is asked to read."""


class StoreError(RecsysError):
    """A store could not be read or written."""


class RequestError(RecsysError):
    """The caller's request is wrong.

    Args:
        detail: the sentence for the caller.
        status: HTTP status, 4xx.
        problems: one entry per bad field or event, as `{"pointer" | "index": ..., "detail": ...}`.
    """

    def __init__(
        self, detail: str, *, status: int = 422, problems: list[dict[str, object]] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.problems = problems or []


class Overloaded(RecsysError):
    """Shed on purpose; the caller may retry after `retry_after_s` seconds."""

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(RecsysError):
    """The request's deadline passed before an answer was ready."""


class FleetError(RecsysError):
    """The cluster did not do what was asked, or cannot be reached."""

    exit_code = 3


class RolloutConflict(RecsysError):
    """Somebody else changed the rollout, plan or alias first."""

    exit_code = 4


class AbortedByEvidence(RecsysError):
    """The rollout was aborted because of what replicas or the judge found."""

    exit_code = 5


class WaitTimeout(RecsysError):
    """The thing waited for did not happen in time."""

    exit_code = 7
