"""Which samples are too old for a target (`queue_config.sample_age_limit`). Pure: the limit comes as a time.

Owns the way to the time inside of an encoded series; what is done about those that are old is `rewrite`'s.
"""

from collections.abc import Iterator, Sequence

from bridge.wire.head import cut_field
from bridge.wire.varint import read_uvarint

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_SAMPLES, _HISTOGRAMS = 2, 4
_TIME_FIELDS = {_SAMPLES: 2, _HISTOGRAMS: 15}
"""Where the time is in each of them."""
_SIGN_BIT = 1 << 63


def without_old(fields: Sequence[bytes], oldest_ms: int) -> list[bytes]:
    """Give the timeseries fields that are not older. Raises ValueError or IndexError for what are none."""
    return [one for one in fields if time_ms(one) >= oldest_ms]


def time_ms(field: bytes) -> int:
    """Time of a timeseries field with one sample or histogram, which may have exemplars beside it."""
    _, behind = cut_field(field)
    for number, content in _fields(behind):
        if number in _TIME_FIELDS and isinstance(content, bytes):
            wanted = _TIME_FIELDS[number]
            times = (value for name, value in _fields(content) if name == wanted and isinstance(value, int))
            unsigned = next(times, 0)
            return unsigned - 2 * _SIGN_BIT if unsigned >= _SIGN_BIT else unsigned
    raise ValueError("a series without a sample")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give number and content of each protobuf field."""
    position = 0
    while position < len(data):
        tag, position = read_uvarint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = read_uvarint(data, position)
            yield number, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if size is None:
            if kind != _LENGTH:
                raise ValueError(f"byte {position}: got wire type {kind}")
            size, position = read_uvarint(data, position)
        if position + size > len(data):
            raise ValueError(f"byte {position}: field of {size} bytes is cut short")
        yield number, data[position : position + size]
        position += size
