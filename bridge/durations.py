"""Durations as Prometheus spells them, for settings and flags alike. Imports next to nothing: cron jobs wait for it."""

import re

_UNITS = ("y", "w", "d", "h", "m", "s", "ms")
_DURATION = re.compile(
    "".join(rf"(?:(\d{{1,15}}){'m(?!s)' if unit == 'm' else unit})?" for unit in _UNITS),
    re.ASCII,
)
_DURATION_SECONDS = (365 * 86400, 7 * 86400, 86400, 3600, 60, 1, 0.001)
_LONGEST_S = 290 * 365 * 86400
"""About as long as Prometheus' own can be; sums with times in ms stay far below what SQLite takes."""

FOREVER_MS = 1 << 62
"""Longer than any time: what `inf` means."""


def parse_ttl_ms(text: object) -> int:
    """Milliseconds of a TTL: a duration, `0` for sent once, `inf` for until deleted; ValueError otherwise."""
    return FOREVER_MS if text == "inf" else round(parse_duration_s(text) * 1000)


def duration_text(seconds: float) -> str:
    """The shortest way to write a duration with one unit."""
    if not seconds:
        return "0s"
    ms = round(seconds * 1000)
    sizes_ms = [round(size_s * 1000) for size_s in _DURATION_SECONDS]
    return min((f"{ms // size}{unit}" for unit, size in zip(_UNITS, sizes_ms, strict=True) if not ms % size), key=len)


def ttl_text(ttl_ms: int) -> str:
    """The way a TTL is written."""
    return "inf" if ttl_ms >= FOREVER_MS else duration_text(ttl_ms / 1000)


def parse_duration_s(text: object) -> float:
    """Seconds of a Prometheus duration such as `1h30m`, `24h`, `500ms` or `0`; ValueError otherwise."""
    if text in (0, "0"):
        return 0.0
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        msg = f"not a duration: got {text!r}, want for example 30s, 1h30m or 7d"
        raise ValueError(msg)
    seconds = sum(int(count) * unit for count, unit in zip(match.groups(), _DURATION_SECONDS, strict=True) if count)
    if seconds > _LONGEST_S:
        msg = f"too long a duration: got {text!r}, want at most 290y"
        raise ValueError(msg)
    return seconds
