"""A target's log lines, told at once and then seldom: a receiver that is away fails many times a second.

Owns the interval and that no line shows the user, password or query of a URL.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import structlog

from bridge.config.units import shown_url

LOG_INTERVAL_S = 30.0
_MOST_TENANTS = 10
"""In an interval: a target that is away is so for all of them."""

_log = structlog.get_logger(__name__)


class ThrottledLog:
    """Log each event at once, then at most every `LOG_INTERVAL_S` with the number left out in between.

    That holds for each tenant, up to some of them.
    """

    def __init__(self, target: str, url: str, clock_s: Callable[[], float]) -> None:
        """Log for a target; `clock_s` is monotonic."""
        self._bound = _log.bind(target=target, url=shown_url(url))
        self._clock_s = clock_s
        self._until_s: dict[str, float] = {}
        self._told: dict[str, set[object]] = {}
        """Tenants of which a line is in the log, by event, since the interval began."""
        self._left_out: Counter[str] = Counter()

    def info(self, event: str, **facts: object) -> None:
        """Tell what is well again."""
        if self._due(event, facts):
            self._bound.info(event, **facts, left_out=self._left_out.pop(event, 0))

    def warning(self, event: str, **facts: object) -> None:
        """Tell what may get better by itself."""
        if self._due(event, facts):
            self._bound.warning(event, **facts, left_out=self._left_out.pop(event, 0))

    def error(self, event: str, **facts: object) -> None:
        """Tell what somebody has to look at."""
        if self._due(event, facts):
            self._bound.error(event, **facts, left_out=self._left_out.pop(event, 0))

    def _due(self, event: str, facts: Mapping[str, object]) -> bool:
        now_s, tenant = self._clock_s(), facts.get("tenant")
        if now_s >= self._until_s.get(event, now_s):
            self._until_s[event] = now_s + LOG_INTERVAL_S
            self._told[event] = set()
        told = self._told[event]
        if tenant in told or len(told) >= _MOST_TENANTS:
            self._left_out[event] += 1
            return False
        told.add(tenant)
        return True
