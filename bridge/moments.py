"""Points in time as people write and read them, for the API and the command line alike.

Pure: the clock is an argument. The form of durations is `durations`.
"""

import re
from datetime import UTC, datetime, timedelta

from bridge.durations import parse_duration_s

_NUMBER = re.compile(r"\d{1,15}(\.\d+)?", re.ASCII)
_SECOND_MS = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OLDEST_MS, _NEWEST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999."""


def parse_moment_ms(text: str, now_ms: int) -> int:
    """Milliseconds of a point in time, or of a duration back from now; ValueError for other texts."""
    if _NUMBER.fullmatch(text):
        return round(float(text) * _SECOND_MS)
    try:
        return now_ms - round(parse_duration_s(text) * _SECOND_MS)
    except ValueError:
        pass
    try:
        # A plus sign that is not escaped comes out of a query as a blank.
        at = datetime.fromisoformat(text.replace(" ", "+"))
        if at.tzinfo is not None:
            return round(at.timestamp() * _SECOND_MS)
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"got {text!r}, want a duration back from now (7d), RFC 3339 (2024-05-01T00:00:00Z) or unix seconds"
    )


def time_text(at_ms: int) -> str:
    """Spell a point in time as the API does: RFC 3339 with milliseconds; Unix seconds where that has no year for it."""
    if not _OLDEST_MS <= at_ms <= _NEWEST_MS:
        seconds, ms = divmod(abs(at_ms), _SECOND_MS)
        return f"{'-' * (at_ms < 0)}{seconds}.{ms:03d}"
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
