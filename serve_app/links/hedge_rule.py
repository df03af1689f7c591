"""When a late call is also made at a second replica. Pure: it knows latencies and counts, no link.

After the 95th percentile of recent latencies, as in Dean and Barroso, "The Tail at Scale" (2013),
and never for more than a small share of the calls, so that a stage that is slow as a whole is not
asked for twice its work.
"""

from __future__ import annotations

from collections import deque

QUANTILE = 0.95
"""Of the recent latencies: a call that takes longer is late."""
SHARE = 0.05
"""Of the calls at most are made twice."""
N_RECENT = 200
"""Latencies that the quantile is taken of."""
N_KNOWN = 50
"""With fewer nothing is known of what is late."""
MAX_CREDIT = 10.0
"""Calls made twice in a row, after a long time in which none was."""
MIN_DELAY_S = 0.002
"""Below that the second call would cost more than the wait."""
MAX_RULES = 64
_RENEW_EVERY = 20


class HedgeRule:
    """Of one method and bundle, so that a slow bundle sets no delay and spends no credit of
    another's."""

    def __init__(self) -> None:
        self._recent_s: deque[float] = deque(maxlen=N_RECENT)
        self._n_until_renewal = N_KNOWN
        self._delay_s: float | None = None
        self._credit = 0.0

    def delay_s(self) -> float | None:
        """Count one call; how long to wait before it is made twice, None for never."""
        self._credit = min(MAX_CREDIT, self._credit + SHARE)
        return self._delay_s if self._credit >= 1.0 else None

    def spend(self) -> None:
        """A call was made twice."""
        self._credit -= 1.0

    def answered(self, elapsed_s: float) -> None:
        """Take in how long a call took."""
        self._recent_s.append(elapsed_s)
        self._n_until_renewal -= 1
        if self._n_until_renewal == 0:
            self._n_until_renewal = _RENEW_EVERY
            ranked = sorted(self._recent_s)
            self._delay_s = max(MIN_DELAY_S, ranked[int(QUANTILE * (len(ranked) - 1))])


class HedgeRules:
    """A rule per method and bundle of a stage."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], HedgeRule] = {}

    def of(self, method: str, bundle_id: str) -> HedgeRule:
        """The rule; that of whatever was asked longest ago makes room."""
        key = (method, bundle_id)
        rule = self._rules.pop(key, None)
        if rule is None:
            rule = HedgeRule()
            while len(self._rules) >= MAX_RULES:
                del self._rules[next(iter(self._rules))]
        self._rules[key] = rule
        return rule
