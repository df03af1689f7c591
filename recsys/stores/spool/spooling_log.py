"""A log that takes events while its broker is away: they wait in a spool and follow in order.

Once an event waits, all later ones wait behind it until a thread of its own has brought them to the
log; so every user's events keep their order. An event may reach the log twice, never not at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from recsys.errors import ConfigError, StoreError
from recsys.events import Event, decode_event, encode_event
from recsys.stores.log.event_log import EventLog, PartlyStored, encode_record
from recsys.stores.spool.spool import Spool

_log = logging.getLogger(__name__)

_DRAIN_EVENTS = 512
_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 2.0
_ADOPT_EVERY_S = 30.0


class SpoolingLog:
    """What the log's writer appends to where the log is a broker's.

    Args:
        log: closed with this.
        spool: closed with this.
        adopt: takes over what dead processes left, now and then.
        is_away: whether the broker is known not to answer.
    """

    def __init__(
        self,
        log: EventLog,
        spool: Spool,
        adopt: Callable[[], int] = lambda: 0,
        *,
        is_away: bool = False,
    ) -> None:
        self._event_log = log
        self._spool = spool
        self._adopt = adopt
        self._adopt_at_s = time.monotonic() + _ADOPT_EVERY_S
        self._is_away = is_away
        self._append_lock = threading.Lock()
        self._changed = threading.Condition()
        self._backoff_s = 0.0
        self._is_closing = False
        self._left: list[Event] = []
        """Of the batch under way, what the log has not acknowledged."""
        self._n_taken = 0
        """Payloads of the batch under way."""
        self.n_spooled = 0
        """Events that took the way over the spool."""
        self.n_refused = 0
        """Events in the spool that the log can never take; kept in a file of their own."""
        self._thread = threading.Thread(target=self._run, name="spool-drain", daemon=True)
        self._thread.start()

    @property
    def is_broker_away(self) -> bool:
        """Whether the log did not answer last time."""
        return self._is_away

    @property
    def spooled_events(self) -> int:
        """Events that wait on disk."""
        return self._spool.n_records

    @property
    def spooled_bytes(self) -> int:
        """Their size on disk."""
        return self._spool.n_bytes

    @property
    def n_corrupt(self) -> int:
        """Damaged files of the spool that were set aside."""
        return self._spool.n_corrupt

    def append(self, events: Sequence[Event]) -> None:
        """Return when all events are durable, in the log or in the spool.

        Raises:
            DataError: an event is too large for the log.
            StoreError: neither takes them.
        """
        with self._append_lock:
            left = list(events)
            if not self._is_away and not self._spool.n_records:
                try:
                    self._event_log.append(left)
                except PartlyStored as error:
                    left = error.unstored
                    self._note_away(error)
                except (StoreError, ConfigError) as error:
                    self._note_away(error)
                else:
                    return
            self._spool.append([encode_record(event) for event in left])
            self.n_spooled += len(left)
        with self._changed:
            self._changed.notify()

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop; what waits in the spool stays there for the next process."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        # Ends an append that still waits for the broker.
        self._event_log.close()
        self._thread.join(timeout_s)
        self._spool.close()

    def _note_away(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            _log.error(f"events wait in the spool: {error}")

    def _note_back(self) -> None:
        self._backoff_s = 0.0
        if self._is_away:
            self._is_away = False
            _log.warning(f"the log takes events again, {self.spooled_events} wait in the spool")

    def _run(self) -> None:
        while self._wait():
            try:
                self._bring()
            except PartlyStored as error:
                self._left = error.unstored
                self._postpone(error)
            except (StoreError, ConfigError) as error:
                self._postpone(error)
            except Exception as error:
                _log.exception("the spool cannot be brought to the log; trying again")
                self._postpone(error)

    def _bring(self) -> None:
        """Bring one batch of what waits to the log."""
        if not self._n_taken:
            self._adopt_sometimes()
            self._left, self._n_taken = self._next_batch()
        try:
            self._event_log.append(self._left)
        except (StoreError, ConfigError):
            raise
        except Exception:
            _log.exception("events of the spool cannot be written together")
            self._bring_apart()
        if self._n_taken:
            self._spool.advance(self._n_taken)
        self._left, self._n_taken = [], 0
        self._note_back()

    def _bring_apart(self) -> None:
        """One by one, leaving out what the log can never take."""
        while self._left:
            try:
                self._event_log.append(self._left[:1])
            except (StoreError, ConfigError) as error:
                raise StoreError(str(error)) from error
            except Exception as error:
                self._refuse(encode_event(self._left[0]), error)
            self._left = self._left[1:]

    def _wait(self) -> bool:
        """Wait for something to bring and the time to try it; False when this is over."""
        with self._changed:
            if self._backoff_s and not self._is_closing:
                self._changed.wait_for(lambda: self._is_closing, self._backoff_s)
            while not self._is_closing and not self._has_work():
                self._changed.wait(_ADOPT_EVERY_S)
            return not self._is_closing

    def _has_work(self) -> bool:
        is_due = time.monotonic() >= self._adopt_at_s
        return bool(self._is_away or self._spool.n_records or is_due)

    def _adopt_sometimes(self) -> None:
        if time.monotonic() >= self._adopt_at_s:
            self._adopt_at_s = time.monotonic() + _ADOPT_EVERY_S
            try:
                self._adopt()
            except OSError as error:
                _log.warning(f"spools of dead processes cannot be looked for: {error}")

    def _next_batch(self) -> tuple[list[Event], int]:
        payloads = self._spool.peek(_DRAIN_EVENTS)
        if not payloads and self._is_away:
            # Nothing to bring: ask, so that the next events need not wait.
            self._event_log.end_offsets()
        events: list[Event] = []
        for payload in payloads:
            try:
                events.append(decode_event(payload))
            except ValueError as error:
                self._refuse(payload, error)
        return events, len(payloads)

    def _refuse(self, payload: bytes, error: Exception) -> None:
        self.n_refused += 1
        aside = self._spool.refuse(payload)
        _log.error(f"an event of the spool cannot go to the log ({error}); it is kept in {aside}")

    def _postpone(self, error: Exception) -> None:
        self._note_away(error)
        self._backoff_s = min(max(2 * self._backoff_s, _FIRST_BACKOFF_S), _MAX_BACKOFF_S)
