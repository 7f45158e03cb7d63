"""Snappy's block format: one block in, one block out, and blocks joined without recompressing.

Owns the length preamble and its limits. The framed format must not live here: remote_write forbids
it, and what pushers send is decoded by `bridge.ingress`.
"""

from collections.abc import Sequence

import snappy

from bridge.wire.varint import read_uvarint, uvarint

MAX_DECLARED_BYTES = 2**32 - 1
"""The largest uncompressed length that the format can state."""


def compress(data: bytes) -> bytes:
    """Compress `data` into one block."""
    return bytes(snappy.compress(data))


def declared_length(block: bytes) -> int:
    """Return the uncompressed length in bytes that the block claims. Raises ValueError for a bad preamble."""
    return _preamble(block)[0]


def decompress(block: bytes, limit: int) -> bytes:
    """Return the block's content, at most `limit` bytes.

    The claimed length is checked before anything of that size is allocated. Raises ValueError when it
    is over the limit and when the block is damaged.
    """
    declared = declared_length(block)
    if declared > limit:
        raise ValueError(f"snappy block declares {declared} bytes, want at most {limit}")
    try:
        data = bytes(snappy.decompress(block))
    except snappy.UncompressError as error:
        raise ValueError(f"snappy block of {len(block)} bytes cannot be decompressed: {error}") from error
    if len(data) != declared:
        raise ValueError(f"snappy block declares {declared} bytes but holds {len(data)}")
    return data


def join(blocks: Sequence[bytes]) -> bytes:
    """Return one block whose content is the blocks' contents one after the other.

    Elements only copy from output before them, by distance, so they mean the same behind other
    elements; only the preamble changes. Raises ValueError for a bad preamble or too large a sum.
    """
    total = 0
    elements = [b""]
    for block in blocks:
        first = block[0] if block else 0x80
        # The everyday preambles of one and two bytes are read here; all others, and what is wrong, below.
        if first < 0x80:  # noqa: PLR2004 - the top bit says that more follows
            declared, start = first, 1
        elif len(block) > 1 and block[1] < 0x80:  # noqa: PLR2004
            declared, start = first & 0x7F | block[1] << 7, 2
        else:
            declared, start = _preamble(block)
        total += declared
        elements.append(block[start:])
    if total > MAX_DECLARED_BYTES:
        raise ValueError(f"joined snappy block would declare {total} bytes, want at most {MAX_DECLARED_BYTES}")
    elements[0] = uvarint(total)
    return b"".join(elements)


def _preamble(block: bytes) -> tuple[int, int]:
    """Return the claimed length and where the elements start."""
    try:
        declared, start = read_uvarint(block, 0)
    except ValueError as error:
        raise ValueError(f"snappy block of {len(block)} bytes has no readable length: {error}") from error
    if declared > MAX_DECLARED_BYTES:
        raise ValueError(f"snappy block declares {declared} bytes, want at most {MAX_DECLARED_BYTES}")
    return declared, start
