"""What a target takes of a row besides plain samples: native histograms, custom buckets, exemplars.

Owns which fields and values are left out, and under which reason they are counted. Exemplars are no samples, so nothing
is counted of them. Pure.
"""

from collections.abc import Mapping, Sequence

from bridge.journal.rows import CUSTOM_BUCKETS, EXEMPLARS, NATIVE_HISTOGRAMS
from bridge.reasons import CUSTOM_IN_RW1, NATIVE_DISABLED
from bridge.wire.histogram import all_plain, is_custom
from bridge.wire.points import split_field
from bridge.wire.remote_write import DOUBLE_BYTES

EVERYTHING = NATIVE_HISTOGRAMS | CUSTOM_BUCKETS | EXEMPLARS


def kinds_taken(*, native_histograms: bool, exemplars: bool, version_2: bool) -> int:
    """Bits of what a target with these settings takes; custom buckets are native histograms of 2.0."""
    kinds = EXEMPLARS if exemplars else 0
    if native_histograms:
        kinds |= NATIVE_HISTOGRAMS | (CUSTOM_BUCKETS if version_2 else 0)
    return kinds


def take_fields(fields: Sequence[bytes], takes: int) -> tuple[list[bytes], Mapping[str, int]]:
    """Give the timeseries fields that are left, in order, and the number of dropped ones by reason.

    Raises ValueError or IndexError for fields that are none.
    """
    left: list[bytes] = []
    dropped: dict[str, int] = {}
    for one in fields:
        parts = split_field(one)
        reason = "" if parts.message is None else _why_not(parts.message, takes)
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
        elif parts.exemplars and not takes & EXEMPLARS:
            left.append(parts.without_exemplars())
        else:
            left.append(one)
    return left, dropped


def take_points(heads: Sequence[bytes], values: Sequence[bytes], takes: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Give heads and values of the series that are left, in order."""
    if all_plain(values):
        return heads, values
    left = [
        (head, value)
        for head, value in zip(heads, values, strict=True)
        if len(value) == DOUBLE_BYTES or not _why_not(value, takes)
    ]
    return [head for head, _ in left], [value for _, value in left]


def _why_not(message: bytes, takes: int) -> str:
    """Say why a target does not get a histogram, "" when it does."""
    if not takes & NATIVE_HISTOGRAMS:
        return NATIVE_DISABLED
    return CUSTOM_IN_RW1 if not takes & CUSTOM_BUCKETS and is_custom(message) else ""
