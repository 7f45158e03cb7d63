import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.delivery.age import time_ms, without_old
from bridge.delivery.rewrite import Row, TargetRules, prepare
from bridge.journal.rows import Entry
from bridge.wire import snappy_block
from bridge.wire.remote_write import timeseries_field
from tests.delivery.peers import Journal, Receiver, entry, expected, running
from tests.made import encode_series

TIMES = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 1 << 43))


def series(timestamp_ms: int, name: str = "a") -> bytes:
    return encode_series([("__name__", name), ("b", "\x12\x10\x09")], 1.5, timestamp_ms)


@given(TIMES)
def test_the_time_of_a_sample(timestamp_ms: int) -> None:
    """Whatever the time, it is found in what the encoder makes."""
    assert time_ms(series(timestamp_ms)) == timestamp_ms


@given(TIMES)
def test_the_time_of_any_series(timestamp_ms: int) -> None:
    """It is the sample's, in any encoding and whatever stands beside it."""
    one = pb.TimeSeries(labels=[pb.Label(name="__name__", value="a")])
    one.samples.add(value=0.0, timestamp=timestamp_ms)
    exemplar = b"\x1a" + bytes([len(inner := b"\x11" + bytes(8) + b"\x18\x01")]) + inner
    assert time_ms(timeseries_field(exemplar + one.SerializeToString())) == timestamp_ms


def test_the_time_of_a_histogram() -> None:
    """It is in another place."""
    histogram = b"\x08\x02\x19" + bytes(8) + b"\x78\xac\x02"
    labels = pb.TimeSeries(labels=[pb.Label(name="__name__", value="a")]).SerializeToString()
    assert time_ms(timeseries_field(labels + b"\x22" + bytes([len(histogram)]) + histogram)) == 300


@pytest.mark.parametrize("data", [b"", b"\x0a\x00", b"\x0a\x02\x12\x05", b"\x0a\x03\x12\x01\x0b"])
def test_what_is_no_series(data: bytes) -> None:
    """Damaged bytes are told from samples."""
    with pytest.raises((ValueError, IndexError)):
        time_ms(data)


def test_old_samples_are_left_out() -> None:
    """The limit itself is not too old; order is kept."""
    fields = [series(at) for at in (5, 3, 4, 6)]
    assert without_old(fields, 4) == [series(5), series(4), series(6)]


def test_a_row_without_its_old_samples() -> None:
    """A row is the same when nothing in it is old, else it has the rest, and says how many it lacks."""
    fields = [series(at) for at in (1, 2, 3)]
    row = Entry(1, 3, snappy_block.compress(b"".join(fields)), 1)
    assert prepare(row, TargetRules(), 1) == prepare(row, TargetRules())
    rest = fields[1] + fields[2]
    assert prepare(row, TargetRules(), 2) == Row(b"", rest, 2, len(rest), "", {"too_old": 1})
    relabeled = prepare(row, TargetRules(lambda head: "relabel" if b"a" in head else head), 2)
    assert relabeled == Row(b"", b"", 0, 0, "", {"too_old": 1, "relabel": 2})


async def test_old_samples_are_not_sent_but_counted() -> None:
    """What is too old when it is read is dropped with its own reason, and its push is told so."""
    journal = Journal(entry(1, "a", "b"), entry(2, "a"), entry(3, "a"))
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal, oldest_ms=lambda: 2):
        await journal.confirmed_up_to(3)
    assert receiver.points() == expected(entry(2, "a"), entry(3, "a"))
    assert journal.totals() == (2, {"too_old": 2})
    assert [(one.first_seq, one.last_seq, dict(one.dropped)) for one in journal.settled] == [
        (1, 1, {"too_old": 2}),
        (2, 3, {}),
    ]
