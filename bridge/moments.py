"""Points in time as people write and read them, for the API and the command line alike.

Pure: the clock is an argument. The form of durations is `durations`.
"""

import re
from datetime import UTC, datetime

from bridge.durations import parse_duration_s

_NUMBER = re.compile(r"\d{1,15}(\.\d+)?", re.ASCII)
_SECOND_MS = 1000


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
    """Spell a point in time as the API does: RFC 3339 with milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
