import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.model import Exemplar
from bridge.wire.head import encode_samples, make_head
from bridge.wire.histogram import encode_histogram, histogram_field
from bridge.wire.points import encode_field, encode_fields, split_field
from bridge.wire.remote_write import label_bytes, value_bytes
from tests.strategies import EXEMPLARS, INT64, VALUES, labels, native_histograms

POINTS = VALUES.map(value_bytes) | native_histograms().map(encode_histogram)
HEADS = labels().map(lambda pairs: make_head(label_bytes(pairs)))


@given(HEADS, POINTS, INT64, st.lists(EXEMPLARS, max_size=3))
def test_a_field_is_taken_apart_as_it_was_put_together(
    head: bytes, point: bytes, at_ms: int, exemplars: list[Exemplar]
) -> None:
    """Without its exemplars a field is the one that never had any."""
    parts = split_field(encode_field(head, point, at_ms, exemplars))
    bare = encode_field(head, point, at_ms)
    assert parts.without_exemplars() == bare
    assert (parts.message is None) == (len(point) == 8)
    assert (parts.exemplars == b"") == (not exemplars)
    if parts.message is not None:
        assert parts.message.startswith(point)
    assert split_field(bare).exemplars == b""


@given(st.lists(st.tuples(HEADS, POINTS), max_size=5), INT64)
def test_fields_of_one_time_are_the_fields_one_by_one(pairs: list[tuple[bytes, bytes]], at_ms: int) -> None:
    """Doubles and histograms may be mixed; the order stays."""
    heads, points = [head for head, _ in pairs], [point for _, point in pairs]
    assert encode_fields(heads, points, at_ms) == b"".join(encode_field(head, point, at_ms) for head, point in pairs)


def test_an_exemplar_without_a_time_gets_that_of_its_sample() -> None:
    """As in a scrape by Prometheus; labels are sorted."""
    traced = Exemplar((("trace_id", "t"), ("span_id", "s")), 0.5)
    field = encode_field(make_head(label_bytes([("__name__", "x")])), value_bytes(1.0), 7, [traced])
    (series,) = pb.WriteRequest.FromString(field).timeseries
    (exemplar,) = series.exemplars
    assert [(label.name, label.value) for label in exemplar.labels] == [("span_id", "s"), ("trace_id", "t")]
    assert (exemplar.value, exemplar.timestamp, series.samples[0].timestamp) == (0.5, 7, 7)


def test_doubles_alone_take_the_short_way() -> None:
    """The bytes are those of plain samples."""
    heads = [make_head(label_bytes([("__name__", name)])) for name in "ab"]
    doubles = [value_bytes(1.0), value_bytes(2.0)]
    assert encode_fields(heads, doubles, 1 << 40) == encode_samples(heads, doubles, 1 << 40)


@pytest.mark.parametrize("behind", [b"\x2a\x01a", b"\x12\x7f", b"\x22"])
def test_what_is_no_point_is_refused(behind: bytes) -> None:
    """Other fields, and such as break off, are an error, not a loss."""
    label = label_bytes([("a", "b")])
    field = b"\x0a" + bytes([len(label) + len(behind)]) + label + behind
    with pytest.raises((ValueError, IndexError)):
        split_field(field)


def test_the_order_of_fields_does_not_matter() -> None:
    """An exemplar in front of its histogram, as the numbers have it, is read alike."""
    label, message = label_bytes([("a", "b")]), b"\x08\x01"
    histogram = histogram_field(label, message, 5)[2 + len(label) :]
    field = b"\x0a" + bytes([len(label) + len(histogram) + 2]) + label + b"\x1a\x00" + histogram
    parts = split_field(field)
    assert (parts.point, parts.message, parts.exemplars) == (histogram, b"\x08\x01\x78\x05", b"\x1a\x00")
