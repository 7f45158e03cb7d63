import gzip
import tracemalloc
import zlib

import pytest
import snappy
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadPushError, TooLargeError, UnsupportedEncodingError
from bridge.ingress.body import decode_body

LIMIT = 1_000_000
TEXT = b"some_metric 1\n" * 10_000
STREAM_HEADER = b"\xff\x06\x00\x00sNaPpY"


def framed(data: bytes) -> bytes:
    return bytes(snappy.StreamCompressor().compress(data))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", TEXT),
        ("identity", TEXT),
        ("Identity", TEXT),
        ("gzip", gzip.compress(TEXT)),
        (" GZip ", gzip.compress(TEXT)),
        ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:])),
        ("snappy", framed(TEXT)),
        ("SNAPPY", framed(TEXT)),
        ("snappy", framed(TEXT[:100]) + framed(TEXT[100:])),
        ("snappy", STREAM_HEADER + b"\xfe\x03\x00\x00\x00\x00\x00" + framed(TEXT)),
        ("snappy", snappy.compress(TEXT)),
    ],
)
def test_every_supported_encoding_gives_the_text_back(encoding: str, body: bytes) -> None:
    """Each supported encoding, in any case, decodes to what was encoded."""
    assert decode_body(body, encoding, LIMIT) == TEXT


@pytest.mark.parametrize("encoding", ["", "gzip", "snappy"])
def test_the_limit_itself_still_fits(encoding: str) -> None:
    """A body of exactly the limit is decoded, one byte less of limit refuses it by number."""
    body = {"": TEXT, "gzip": gzip.compress(TEXT), "snappy": framed(TEXT)}[encoding]
    assert decode_body(body, encoding, len(TEXT)) == TEXT
    with pytest.raises(TooLargeError, match=f"limit of {len(TEXT) - 1} bytes"):
        decode_body(body, encoding, len(TEXT) - 1)


def test_a_block_over_the_limit_is_refused() -> None:
    """A snappy block is judged by the size it declares."""
    with pytest.raises(TooLargeError, match="limit of 99 bytes"):
        decode_body(snappy.compress(b"x" * 100), "snappy", 99)


@pytest.mark.parametrize("encoding", ["gzip, snappy", "br", "deflate", "zstd", "x-gzip"])
def test_other_encodings_are_refused_with_the_supported_ones(encoding: str) -> None:
    """An encoding that we do not decode is named beside those that we do."""
    with pytest.raises(UnsupportedEncodingError, match="gzip, snappy or identity") as caught:
        decode_body(b"", encoding, LIMIT)
    assert f'"{encoding}"' in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "body", "fault"),
    [
        ("gzip", b"", "empty"),
        ("gzip", b"plain text", "incorrect header"),
        ("gzip", gzip.compress(TEXT)[:-1], "truncated"),
        ("gzip", gzip.compress(TEXT)[:-8] + bytes(8), "incorrect data check"),
        ("gzip", gzip.compress(TEXT) + b"junk", "incorrect header"),
        ("snappy", b"", "valid decoded length"),
        ("snappy", b"\xff\xff\xff\xff\xff\xff", "valid decoded length"),
        ("snappy", b"\xff\xff\xff\xff\x7f", "valid decoded length"),
        ("snappy", snappy.compress(TEXT)[:-1], "corrupt block"),
        ("snappy", framed(TEXT)[:-1], "truncated"),
        ("snappy", STREAM_HEADER + b"\x00\x01", "truncated"),
        ("snappy", STREAM_HEADER + b"\x00\x01\x00\x00x", "too short"),
        ("snappy", STREAM_HEADER + b"\x02\x01\x00\x00x", "0x02 at byte 10"),
        ("snappy", STREAM_HEADER + b"\xff\x06\x00\x00sNaPpX", "want sNaPpY"),
        ("snappy", STREAM_HEADER + b"\x01\x05\x00\x00\x00\x00\x00\x00x", "checksum"),
        ("snappy", STREAM_HEADER + b"\x00\x07\x00\x00\x00\x00\x00\x00\x81\x80\x04", "65537 bytes"),
    ],
)
def test_corrupt_bodies_name_encoding_and_fault(encoding: str, body: bytes, fault: str) -> None:
    """A body that does not decode is the sender's fault, told with the encoding and what is wrong."""
    with pytest.raises(BadPushError, match=fault) as caught:
        decode_body(body, encoding, LIMIT)
    assert caught.value.reason == "encoding"
    assert f"Content-Encoding {encoding}:" in str(caught.value)


@pytest.mark.parametrize("encoding", ["gzip", "snappy"])
def test_every_cut_of_a_compressed_body_is_refused_or_shorter(encoding: str) -> None:
    """No prefix of a compressed body passes for the whole."""
    text = b"some_metric 1\nother_metric 2\n"
    body = gzip.compress(text) if encoding == "gzip" else snappy.compress(text)
    for end in range(len(body)):
        with pytest.raises(BadPushError):
            decode_body(body[:end], encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["gzip", "block", "framed"])
def test_a_bomb_does_not_allocate_much_over_the_limit(encoding: str) -> None:
    """A small body that decodes to 50 MB is refused without holding more than about the limit."""
    bomb = bytes(50_000_000)
    body = {"gzip": gzip.compress, "block": snappy.compress, "framed": framed}[encoding](bomb)
    del bomb
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            decode_body(body, "gzip" if encoding == "gzip" else "snappy", LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT
    finally:
        tracemalloc.stop()


@given(
    encoding=st.sampled_from(["", "gzip", "snappy"]),
    prefix=st.sampled_from([b"", STREAM_HEADER, STREAM_HEADER + b"\x00\x08\x00\x00", gzip.compress(b"x")[:10]]),
    junk=st.binary(max_size=300),
)
def test_any_bytes_decode_within_the_limit_or_raise_the_documented_errors(
    encoding: str, prefix: bytes, junk: bytes
) -> None:
    """Any bytes give at most the limit, or one of the two documented errors."""
    try:
        assert len(decode_body(prefix + junk, encoding, 200)) <= 200
    except (BadPushError, TooLargeError) as error:
        assert error.reason in {"encoding", "too_large"}  # noqa: PT017 - either outcome is right


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_gzip_members_of_any_kind_are_joined(parts: list[bytes]) -> None:
    """Members of any content, stored or deflated, decode to their concatenation."""
    body = b"".join(gzip.compress(part, level) for level, part in zip((0, 1, 6, 9, 6), parts, strict=False))
    assert decode_body(body, "gzip", LIMIT) == b"".join(parts)
    with pytest.raises(BadPushError):
        decode_body(body + zlib.compress(b""), "gzip", LIMIT)
