"""How many requests a target has in flight: as many as are made ready during one round trip. Pure.

Owns the decision; when it may take effect, so that the order of a series holds, is the lanes' business.
"""

from math import ceil

_WEIGHT = 0.2
"""Of the newest measurement, as in Prometheus' own resharding."""
_TOLERANCE = 1.3
"""Fewer more are not worth a pause in which everything in flight is waited for."""


def average(before_s: float, newest_s: float) -> float:
    """Mix a measurement, in seconds, into an average; the first one, after 0, counts whole."""
    return newest_s if before_s == 0 else before_s + _WEIGHT * (newest_s - before_s)


def wanted_shards(now: int, latency_s: float, prepare_s: float, least: int, most: int) -> int:
    """The number of shards for a backlog, `now` when a change is not worth it.

    `latency_s` is a round trip, `prepare_s` what it takes to read and join one request. More shards than requests can
    be made for would only share the same number of samples.
    """
    wanted = min(most, max(least, ceil(latency_s / max(prepare_s, 1e-6)) + 1))
    return wanted if wanted > now * _TOLERANCE else now
