"""Unsigned varints, which protobuf and snappy share. Nothing else lives here."""

_MAX_BYTES = 10
_ONE_BYTE = tuple(bytes((number,)) for number in range(0x80))


def uvarint(number: int) -> bytes:
    """Encode a number from 0 to 2**64 - 1."""
    if number < 0x80:  # noqa: PLR2004 - seven bits per byte is the format
        return _ONE_BYTE[number]
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_uvarint(data: bytes, start: int) -> tuple[int, int]:
    """Decode the varint at `start`; return it with the offset behind it.

    Raises ValueError when the data ends inside it or it is longer than ten bytes.
    """
    # Nearly all lengths have one byte or two.
    if start + 1 < len(data):
        first, second = data[start], data[start + 1]
        if first < 0x80:  # noqa: PLR2004 - the top bit says that more follows
            return first, start + 1
        if second < 0x80:  # noqa: PLR2004
            return first & 0x7F | second << 7, start + 2
    number = 0
    for index in range(_MAX_BYTES):
        if start + index >= len(data):
            raise ValueError(f"varint at byte {start}: got the end of the data, want another byte")
        byte = data[start + index]
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004
            return number, start + index + 1
    raise ValueError(f"varint at byte {start}: got more than {_MAX_BYTES} bytes")
