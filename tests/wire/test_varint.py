import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.wire.varint import read_uvarint, uvarint


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_round_trip(number: int, before: bytes, after: bytes) -> None:
    """A number comes back from the middle of other bytes, with the offset behind it."""
    encoded = uvarint(number)
    assert read_uvarint(before + encoded + after, len(before)) == (number, len(before) + len(encoded))


@pytest.mark.parametrize(("number", "encoded"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_known_encodings(number: int, encoded: bytes) -> None:
    """The bytes are those of the protobuf documentation."""
    assert uvarint(number) == encoded


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 10])
def test_bad_varints(data: bytes) -> None:
    """A varint that is cut short or longer than ten bytes is a ValueError that names its place."""
    with pytest.raises(ValueError, match="varint at byte 0"):
        read_uvarint(data, 0)
