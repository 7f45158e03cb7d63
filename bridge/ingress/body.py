"""Undo the Content-Encoding of a push without ever holding much more than the limit.

Owns which encodings are taken and the bound on decoded size. What the bytes mean (text, protobuf)
and the limit on the wire size while reading do not belong here.
"""

import io
import zlib
from collections.abc import Callable
from typing import Final

import cramjam
import snappy

from bridge.errors import BadPushError, TooLargeError, UnsupportedEncodingError

_GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
_GZIP_SLICE: Final = 4096
"""zlib copies the rest of its input at each member's end; small slices keep many members linear."""

_STREAM_HEADER: Final = b"\xff\x06\x00\x00sNaPpY"
_CHUNK_COMPRESSED: Final = 0x00
_CHUNK_UNCOMPRESSED: Final = 0x01
_CHUNK_SKIPPABLE: Final = 0x80
_CHUNK_HEADER: Final = 0xFF
_CHUNK_LIMIT_BYTES: Final = 65536
_CHECKSUM_BYTES: Final = 4
_LENGTH_BYTES: Final = 5
_LENGTH_MAX: Final = 0xFFFFFFFF


def decode_body(body: bytes, content_encoding: str, limit_bytes: int) -> bytes:
    """Decode `body` by its Content-Encoding header value; an empty value means identity.

    Gzip may have several members; `snappy` is the framed stream if it starts with the stream header,
    else one block. Raises `UnsupportedEncodingError` for any other encoding or a list of them,
    `TooLargeError` when more than `limit_bytes` come out and `BadPushError` (reason `encoding`) when the
    bytes are corrupt or cut short. Source: Pushgateway HTTP API, section 5.3 of the protocol reference.
    """
    decoder = _DECODERS.get(content_encoding.strip().lower())
    if decoder is None:
        raise UnsupportedEncodingError(
            "encoding",
            f'Content-Encoding "{content_encoding}" is not supported: send one of gzip, snappy or identity',
        )
    return decoder(body, limit_bytes)


def _decode_identity(body: bytes, limit_bytes: int) -> bytes:
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


def _decode_gzip(body: bytes, limit_bytes: int) -> bytes:
    if not body:
        raise _corrupt("gzip", "the body is empty, want at least a gzip header")
    decoded = io.BytesIO()
    member = zlib.decompressobj(_GZIP_WBITS)
    position = 0
    while position < len(body):
        if member.eof:
            member = zlib.decompressobj(_GZIP_WBITS)
        piece = body[position : position + _GZIP_SLICE]
        position += len(piece)
        while True:
            try:
                decoded.write(member.decompress(piece, limit_bytes + 1 - decoded.tell()))
            except zlib.error as error:
                raise _corrupt("gzip", f"corrupt near byte {position - len(piece)}: {error}") from error
            if decoded.tell() > limit_bytes:
                raise _too_large(limit_bytes)
            piece = member.unconsumed_tail
            if member.eof or not piece:
                break
        position -= len(member.unused_data)
    if not member.eof:
        raise _corrupt("gzip", f"truncated: {len(body)} bytes end inside a gzip member")
    return decoded.getvalue()


def _decode_snappy(body: bytes, limit_bytes: int) -> bytes:
    if body.startswith(_STREAM_HEADER):
        return _decode_snappy_stream(body, limit_bytes)
    return _decode_snappy_block(body, limit_bytes)


def _decode_snappy_block(body: bytes, limit_bytes: int) -> bytes:
    declared = _block_length(body, "the block")
    if declared > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        return bytes(snappy.uncompress(body))
    except snappy.UncompressError as error:
        raise _corrupt("snappy", f"corrupt block: {error.__cause__}") from error


def _decode_snappy_stream(body: bytes, limit_bytes: int) -> bytes:
    """Walk the chunks of the framing format; each is checked for size before the library sees it."""
    decoded = io.BytesIO()
    batch: list[bytes] = []
    batch_bytes = 0
    position = 0
    while position < len(body):
        end = position + 4 + int.from_bytes(body[position + 1 : position + 4], "little")
        if position + 4 > len(body) or end > len(body):
            raise _corrupt("snappy", f"truncated: {len(body)} bytes end inside the chunk at byte {position}")
        chunk = body[position:end]
        size = _chunk_size(chunk, position)
        if decoded.tell() + batch_bytes + size > limit_bytes:
            raise _too_large(limit_bytes)
        if chunk[0] in (_CHUNK_COMPRESSED, _CHUNK_UNCOMPRESSED):
            batch.append(chunk)
            batch_bytes += size
        position = end
        if batch_bytes >= _CHUNK_LIMIT_BYTES:
            decoded.write(_decode_chunks(batch, position, batch_bytes))
            batch.clear()
            batch_bytes = 0
    decoded.write(_decode_chunks(batch, position, batch_bytes))
    return decoded.getvalue()


def _chunk_size(chunk: bytes, position: int) -> int:
    """Check one whole chunk's type and lengths; give its decoded size in bytes, 0 for chunks to skip."""
    kind = chunk[0]
    if kind == _CHUNK_HEADER:
        if chunk != _STREAM_HEADER:
            raise _corrupt("snappy", f"bad stream header in the chunk at byte {position}, want sNaPpY")
        return 0
    if kind >= _CHUNK_SKIPPABLE:
        return 0
    if kind not in (_CHUNK_COMPRESSED, _CHUNK_UNCOMPRESSED):
        raise _corrupt("snappy", f"chunk type 0x{kind:02x} at byte {position} is reserved and must not be skipped")
    payload = chunk[4:]
    if len(payload) < _CHECKSUM_BYTES:
        raise _corrupt("snappy", f"the chunk at byte {position} is too short for its checksum")
    payload = payload[_CHECKSUM_BYTES:]
    size = len(payload)
    if kind == _CHUNK_COMPRESSED:
        size = _block_length(payload, f"the chunk at byte {position}")
    if size > _CHUNK_LIMIT_BYTES:
        raise _corrupt(
            "snappy", f"the chunk at byte {position} decodes to {size} bytes, want at most {_CHUNK_LIMIT_BYTES}"
        )
    return size


def _decode_chunks(chunks: list[bytes], end: int, size: int) -> bytes:
    """Decode data chunks in one go, as a decompressor for each of many tiny chunks would be slow."""
    try:
        decoded = bytes(snappy.StreamDecompressor().decompress(_STREAM_HEADER + b"".join(chunks)))
    except (OSError, cramjam.DecompressionError) as error:  # it wraps what it finds in either
        raise _corrupt("snappy", f"corrupt chunk before byte {end}: {error}") from error
    if len(decoded) != size:
        raise _corrupt("snappy", f"the chunks before byte {end} gave {len(decoded)} bytes, want {size}")
    return decoded


def _block_length(block: bytes, what: str) -> int:
    """Read the decoded size in bytes that a block declares in front."""
    declared = 0
    for index, byte in enumerate(block[:_LENGTH_BYTES]):
        declared |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the varint continuation bit
            if declared > _LENGTH_MAX:
                break
            return declared
    raise _corrupt("snappy", f"{what} does not start with a valid decoded length")


def _corrupt(encoding: str, fault: str) -> BadPushError:
    return BadPushError("encoding", f"cannot decode the body as Content-Encoding {encoding}: {fault}")


def _too_large(limit_bytes: int) -> TooLargeError:
    return TooLargeError("too_large", f"the decoded body is larger than the limit of {limit_bytes} bytes")


_DECODERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "": _decode_identity,
    "identity": _decode_identity,
    "gzip": _decode_gzip,
    "snappy": _decode_snappy,
}
