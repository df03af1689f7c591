"""Reads fields out of a request's JSON and notes everything that is wrong with them.

Knows types, limits and how to say what was expected; not which fields a request has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches

import msgspec

from recsys.errors import RequestError
from recsys.events import MAX_ID_BYTES

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MAX_SHOWN = 60
_MAX_POINTED = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request."""

    pointer: str
    """JSON pointer to the field."""
    detail: str
    is_malformed: bool
    """A wrong type or shape (400), not merely a value out of its limits (422)."""


def decode_object(body: bytes) -> dict[str, object]:
    """The JSON object of a request body.

    Raises:
        RequestError: status 400; it is no JSON object.
    """
    try:
        raw = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: {error}", status=400) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}", status=400) from error
    if not isinstance(raw, dict):
        raise RequestError(f"the body is {shown(raw)}, expected a JSON object", status=400)
    return raw


class FieldReader:
    """The fields of one JSON object; a field that is null counts as absent.

    Every method answers None (or an empty value) for a field that is absent or wrong; what is
    wrong is in `problems`.

    Args:
        fields: the object.
        pointer: JSON pointer to the object, empty for the body itself.
    """

    __slots__ = ("fields", "pointer", "problems")

    def __init__(self, fields: Mapping[str, object], pointer: str = "") -> None:
        self.fields = fields
        self.pointer = pointer
        self.problems: list[Problem] = []

    def refuse_unknown(self, known: frozenset[str]) -> None:
        """Note every field that is not known, with the nearest known name."""
        if self.fields.keys() <= known:
            return
        for name in self.fields:
            if name not in known:
                near = get_close_matches(name[:_MAX_POINTED], known, n=1)
                meant = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
                self._note(name, f"unknown field; {meant}", is_malformed=False)

    def text(
        self,
        name: str,
        *,
        required: bool = False,
        max_bytes: int = MAX_ID_BYTES,
        may_be_empty: bool = False,
    ) -> str | None:
        """A string of 1 (or 0) to `max_bytes` bytes of UTF-8."""
        value = self.fields.get(name)
        if value is None:
            if required:
                self._note(name, "missing, expected a string", is_malformed=False)
            return None
        return self.checked_text(name, value, max_bytes, may_be_empty=may_be_empty)

    def checked_text(
        self, name: str, value: object, max_bytes: int, *, may_be_empty: bool = False
    ) -> str | None:
        """This value as a string within its limits."""
        if not isinstance(value, str):
            self._note(name, f"{shown(value)}, expected a string", is_malformed=True)
            return None
        if not value and not may_be_empty:
            self._note(name, "empty, expected at least one character", is_malformed=False)
            return None
        try:
            n_bytes = len(value) if value.isascii() else len(value.encode())
        except UnicodeEncodeError:
            self._note(name, "holds half a character, expected UTF-8", is_malformed=True)
            return None
        if n_bytes > max_bytes:
            detail = f"{n_bytes} bytes of UTF-8, expected at most {max_bytes}"
            self._note(name, detail, is_malformed=False)
            return None
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self._note(name, f"{shown(value)}, expected a whole number", is_malformed=True)
            return None
        if not low <= value <= high:
            self._note(name, f"{shown(value)}, expected {low} to {high}", is_malformed=False)
            return None
        return value

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            self._note(name, f"{shown(value)}, expected a number", is_malformed=True)
            return None
        try:
            as_float = float(value)
        except OverflowError:
            as_float = math.inf
        if not math.isfinite(as_float):
            self._note(name, f"{shown(value)}, expected a finite number", is_malformed=False)
            return None
        return as_float

    def boolean(self, name: str) -> bool | None:
        """True or false."""
        value = self.fields.get(name)
        if value is None or isinstance(value, bool):
            return value
        self._note(name, f"{shown(value)}, expected true or false", is_malformed=True)
        return None

    def texts(self, name: str, *, max_count: int, max_bytes: int = MAX_ID_BYTES) -> tuple[str, ...]:
        """A list of strings, each within its limits."""
        value = self.fields.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self._note(name, f"{shown(value)}, expected a list of strings", is_malformed=True)
            return ()
        if len(value) > max_count:
            self._note(name, f"{len(value)} entries, expected at most {max_count}",
                       is_malformed=False)  # fmt: skip
            return ()
        checked = [
            self.checked_text(f"{name}/{index}", entry, max_bytes)
            for index, entry in enumerate(value)
        ]
        return tuple(text for text in checked if text is not None)

    def text_map(self, name: str, *, max_count: int, max_bytes: int) -> dict[str, str]:
        """An object whose values are strings."""
        value = self.fields.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._note(name, f"{shown(value)}, expected an object of strings", is_malformed=True)
            return {}
        if len(value) > max_count:
            self._note(name, f"{len(value)} entries, expected at most {max_count}",
                       is_malformed=False)  # fmt: skip
            return {}
        found: dict[str, str] = {}
        for key, entry in value.items():
            pointer = f"{name}/{_escaped(key)}"
            if self.checked_text(pointer, key, max_bytes) is None:
                continue
            text = self.checked_text(pointer, entry, max_bytes, may_be_empty=True)
            if text is not None:
                found[key] = text
        return found

    def time_ms(self, name: str, low_ms: int, high_ms: int) -> int | None:
        """A time as milliseconds since 1970: ISO 8601 (UTC without a zone) or such a number."""
        value = self.fields.get(name)
        if value is None:
            return None
        found = _epoch_ms(value)
        if found is None:
            expected = "expected ISO 8601 or whole milliseconds since 1970"
            self._note(name, f"{shown(value)}, {expected}", is_malformed=True)
            return None
        if not low_ms <= found <= high_ms:
            looks_like_s = isinstance(value, int) and low_ms <= value * 1000 <= high_ms
            mend = "; it looks like seconds, send milliseconds" if looks_like_s else ""
            expected = f"expected {_iso(low_ms)} to {_iso(high_ms)}"
            self._note(name, f"{shown(value)}, {expected}{mend}", is_malformed=False)
            return None
        return found

    def _note(self, name: str, detail: str, *, is_malformed: bool) -> None:
        pointer = f"{self.pointer}/{name[:_MAX_POINTED]}"
        self.problems.append(Problem(pointer, detail, is_malformed))


def request_error(problems: Iterable[Problem]) -> RequestError:
    """The error that names every problem: 400 if one of them is malformed, else 422."""
    found = list(problems)
    status = 400 if any(problem.is_malformed for problem in found) else 422
    detail = "; ".join(f"{problem.pointer}: {problem.detail}" for problem in found[:3])
    if len(found) > 3:
        detail += f"; and {len(found) - 3} more"
    entries: list[dict[str, object]] = [
        {"pointer": problem.pointer, "detail": problem.detail} for problem in found
    ]
    return RequestError(detail, status=status, problems=entries)


def shown(value: object) -> str:
    """A value as JSON, short enough for a message."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _epoch_ms(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - _EPOCH) // _MILLISECOND


def _iso(time_ms: int) -> str:
    return (_EPOCH + time_ms * _MILLISECOND).strftime("%Y-%m-%dT%H:%M:%SZ")


def _escaped(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
