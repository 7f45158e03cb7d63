import pytest
import snappy
from hypothesis import given
from hypothesis import strategies as st

from bridge.wire import snappy_block


@given(st.binary(max_size=5000))
def test_round_trip(data: bytes) -> None:
    """What is compressed comes back, and the block tells its size beforehand."""
    block = snappy_block.compress(data)
    assert snappy_block.decompress(block, len(data)) == data
    assert snappy_block.declared_length(block) == len(data)


@given(st.lists(st.binary(max_size=300).map(lambda data: data * 5), max_size=8))
def test_join_is_concatenation(parts: list[bytes]) -> None:
    """Joined blocks decompress to the contents one after the other, in a decoder that is not ours too."""
    joined = snappy_block.join([snappy_block.compress(part) for part in parts])
    assert bytes(snappy.decompress(joined)) == b"".join(parts)


def test_join_of_large_blocks() -> None:
    """Joining holds for contents beyond the compressor's own 64 KiB fragments."""
    parts = [bytes(range(256)) * 1000, b"x" * 70_000, b"", b"tail"]
    joined = snappy_block.join([snappy_block.compress(part) for part in parts])
    assert snappy_block.decompress(joined, 400_000) == b"".join(parts)


def test_limit_is_checked_on_the_declared_length() -> None:
    """A block that claims 4 GiB is refused by its claim, before its missing content is looked at."""
    with pytest.raises(ValueError, match="declares 4294967295 bytes, want at most 1000"):
        snappy_block.decompress(b"\xff\xff\xff\xff\x0f", 1000)


def test_limit_is_inclusive() -> None:
    """A block of exactly the limit passes, one byte more does not."""
    block = snappy_block.compress(b"12345")
    assert snappy_block.decompress(block, 5) == b"12345"
    with pytest.raises(ValueError, match="want at most 4"):
        snappy_block.decompress(block, 4)


@pytest.mark.parametrize("block", [b"", b"\x80", b"\xff" * 11, b"\xff\xff\xff\xff\x1f"])
def test_bad_preamble(block: bytes) -> None:
    """A preamble that is missing, cut, endless or over 32 bits is a ValueError everywhere."""
    with pytest.raises(ValueError, match="snappy block"):
        snappy_block.declared_length(block)
    with pytest.raises(ValueError, match="snappy block"):
        snappy_block.join([block])


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_value_error(block: bytes) -> None:
    """No input makes the decoder fail in any other way, or return another size than declared."""
    try:
        data = snappy_block.decompress(block, 100_000)
    except ValueError:
        return
    assert len(data) == snappy_block.declared_length(block)


def test_every_cut_is_refused() -> None:
    """A block that is cut short anywhere is refused."""
    block = snappy_block.compress(b"abcdefgh" * 20 + bytes(range(100)))
    for end in range(len(block)):
        with pytest.raises(ValueError, match="snappy block"):
            snappy_block.decompress(block[:end], 10_000)
