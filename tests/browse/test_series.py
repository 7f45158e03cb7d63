"""What a row holds, as people read it, and which of it a selector chooses."""

import math

import pytest

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.browse.series import Choice, Point, float_text, only, points, series_text
from bridge.selector import parse_selector
from bridge.wire import snappy_block
from bridge.wire.remote_write import STALE_NAN, encode_point, label_bytes
from tests.browse.journals import AT_MS, body
from tests.made import encode_series

JOB = (("__name__", "a"), ("job", "j"))


def histogram() -> bytes:
    """A native histogram beside an exemplar, as remote_write has them."""
    series = pb.TimeSeries(labels=[pb.Label(name="__name__", value="h")])
    series.exemplars.add(value=1.0)
    series.histograms.add(count_int=3, sum=4.5, schema=2, timestamp=AT_MS)
    return pb.WriteRequest(timeseries=[series]).SerializeToString()


def test_values_are_read_as_they_were_written() -> None:
    """Labels, times and values, a NaN and the marker among them, which differ in their bits only."""
    data = encode_series(JOB, 1.5, AT_MS) + encode_series(JOB, math.nan, -5)
    data += encode_point(label_bytes(JOB), STALE_NAN, AT_MS + 1)
    first, nan, marker = points(snappy_block.compress(data), Choice())
    assert first == Point(JOB, AT_MS, 1.5)
    assert (nan.at_ms, nan.stale, nan.value_text) == (-5, False, "NaN")
    assert (marker.at_ms, marker.stale, marker.value_text) == (AT_MS + 1, True, "stale")


def test_a_native_histogram_is_one_sample() -> None:
    """It has its own time and is told as JSON; an exemplar is none."""
    (point,) = points(snappy_block.compress(histogram()), Choice())
    assert (point.labels, point.at_ms) == ((("__name__", "h"),), AT_MS)
    assert point.histogram == f'{{"count_int":"3","sum":4.5,"schema":2,"timestamp":"{AT_MS}"}}'


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("a", ["a"]),
        ('{job="j"}', ["a", "b"]),
        ('{job="j",__name__!="a"}', ["b"]),
        ('{__name__=~"a|b",instance=""}', ["a", "b"]),
        ('a{job="other"}', []),
    ],
)
def test_a_selector_chooses_series(selector: str, names: list[str]) -> None:
    """By name and labels, one that is missing being empty; the rest of the row keeps its bytes and its order."""
    row = body(AT_MS, "j", [("a", 1.0), ("b", 2.0)])
    choice = Choice(parse_selector(selector))
    assert [dict(point.labels)["__name__"] for point in points(row, choice)] == names
    left, count = only(row, choice)
    assert count == len(names)
    assert list(points(left, Choice())) == list(points(row, choice))


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_damaged_body_is_one_error(cut: int) -> None:
    """A body that breaks off anywhere, or holds something else, is a ValueError."""
    data = encode_series(JOB, 1.5, AT_MS)
    broken = data[:-cut] if cut < len(data) else b"\x12\x00"
    with pytest.raises(ValueError, match=r".+"):
        list(points(snappy_block.compress(broken), Choice()))
    with pytest.raises(ValueError, match=r".+"):
        list(points(b"\xff" * cut, Choice()))


def test_inner_damage_is_one_error() -> None:
    """Fields of a series that break off inside it are a ValueError too."""
    for inner in (b"\x0a\x05\x0a\x01a", b"\x12\x09\x09", b"\x0a\x02\x0a\x09", b"\x0a"):
        with pytest.raises(ValueError, match=r".+"):
            list(points(snappy_block.compress(b"\x0a" + bytes([len(inner)]) + inner), Choice()))


def test_series_and_values_are_spelled_as_in_promql() -> None:
    """A series without labels is its name, one without a name its labels."""
    assert series_text((("__name__", "a"), ("l", 'x"\n'), ("z", "ü"))) == 'a{l="x\\"\\n",z="ü"}'
    assert (series_text((("__name__", "a"),)), series_text((("l", "x"),)), series_text(())) == ("a", '{l="x"}', "{}")
    assert [float_text(value) for value in (1.0, math.inf, -math.inf, math.nan)] == ["1.0", "+Inf", "-Inf", "NaN"]
