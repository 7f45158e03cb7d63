"""How long to wait before a request is repeated: numbers in, seconds out.

Pure: the random number and the time are arguments. Sleeping and counting attempts are the sender's.
"""

from email.utils import parsedate_to_datetime

MIN_BACKOFF_S = 0.03
MAX_BACKOFF_S = 5.0
MAX_RETRY_AFTER_S = 3600.0
"""A receiver that asks for more is asked again after an hour: a slip of units must not stop delivery."""

_MAX_DOUBLINGS = 32


def backoff_s(
    attempt: int,
    random_01: float,
    min_s: float = MIN_BACKOFF_S,
    max_s: float = MAX_BACKOFF_S,
) -> float:
    """Return the seconds to wait after failure number `attempt` (1 is the first).

    The ceiling doubles from `min_s` to `max_s`; `random_01` (0 to 1) chooses between half of it and all
    of it. Waiting at least half keeps a receiver in trouble from quick repeats, the rest spreads senders.
    """
    ceiling = min(max_s, min_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
    return ceiling * (0.5 + 0.5 * random_01)


def delay_s(
    attempt: int,
    after_s: float | None,
    random_01: float,
    min_s: float = MIN_BACKOFF_S,
    max_s: float = MAX_BACKOFF_S,
) -> float:
    """Return the receiver's own wish (up to `MAX_RETRY_AFTER_S`) when it has one, else the backoff."""
    if after_s is None or after_s <= 0:
        return backoff_s(attempt, random_01, min_s, max_s)
    return min(after_s, MAX_RETRY_AFTER_S)


def parse_retry_after(value: str, now_s: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, None when it says nothing readable.

    Both forms of RFC 9110 section 10.2.3: whole seconds, or an HTTP-date, which is compared with `now_s`
    (seconds since the epoch) and gives 0 when it has passed.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # A date without a zone would be read in the machine's own; HTTP-dates are always GMT.
        return max(0.0, date.timestamp() - now_s) if date.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
