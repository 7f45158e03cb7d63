import math
from collections.abc import Callable

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from bridge._pb import client_model_pb2 as pb
from bridge.errors import BadPushError
from bridge.exposition.protobuf import parse_delimited
from bridge.model import Family, NativeHistogram, Sample, Span


def encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def delimit(*payloads: bytes) -> bytes:
    return b"".join(encode_varint(len(payload)) + payload for payload in payloads)


def message(text: str) -> bytes:
    return text_format.Parse(text, pb.MetricFamily()).SerializeToString()


def parse(*texts: str, utf8_names: bool = False) -> tuple[Family, ...]:
    return parse_delimited(delimit(*map(message, texts)), utf8_names=utf8_names)


def rows(family: Family) -> list[tuple[str, dict[str, str], float]]:
    return [(sample.name, dict(sample.labels), sample.value) for sample in family.samples]


def test_an_empty_body_has_no_families() -> None:
    """An empty body is a push of nothing."""
    assert parse_delimited(b"", utf8_names=False) == ()


@pytest.mark.parametrize("kind", ["counter", "gauge", "untyped"])
def test_simple_types_give_one_sample_each(kind: str) -> None:
    """Counter, gauge and untyped keep name, help, unit, labels, value and timestamp."""
    (family,) = parse(
        f'name: "x" help: "h" unit: "s" type: {kind.upper()}'
        f' metric {{ label {{ name: "b" value: "1" }} label {{ name: "a" value: "" }} {kind} {{ value: 2.5 }}'
        f" timestamp_ms: -7 }} metric {{ {kind} {{ value: nan }} }}"
    )
    assert (family.name, family.type, family.help, family.unit) == ("x", kind, "h", "s")
    assert family.samples[0] == Sample("x", (("b", "1"), ("a", "")), 2.5, -7)
    assert math.isnan(family.samples[1].value)
    assert family.samples[1].timestamp_ms is None


def test_a_family_without_a_type_is_a_counter() -> None:
    """The type's proto2 default is counter, as in Go."""
    assert parse('name: "x" metric { counter { value: 1 } }')[0].type == "counter"


def test_summaries_are_flattened() -> None:
    """A summary gives quantiles, sum and count, in that order."""
    (family,) = parse(
        'name: "x" type: SUMMARY metric { label { name: "a" value: "1" } summary { sample_count: 3 sample_sum: 4.5'
        " quantile { quantile: 0.5 value: 1 } quantile { quantile: 1 value: 2 } } }"
    )
    assert rows(family) == [
        ("x", {"a": "1", "quantile": "0.5"}, 1),
        ("x", {"a": "1", "quantile": "1"}, 2),
        ("x_sum", {"a": "1"}, 4.5),
        ("x_count", {"a": "1"}, 3),
    ]


@pytest.mark.parametrize(("kind", "metric_type"), [("HISTOGRAM", "histogram"), ("GAUGE_HISTOGRAM", "gaugehistogram")])
@pytest.mark.parametrize("infinity", ["", "bucket { upper_bound: inf cumulative_count: 5 }"])
def test_classic_histograms_are_flattened_with_one_infinity_bucket(kind: str, metric_type: str, infinity: str) -> None:
    """Buckets come in order with Go's float form, and +Inf is there exactly once."""
    (family,) = parse(
        f'name: "x" type: {kind} metric {{ histogram {{ sample_count: 5 sample_sum: 9'
        f" bucket {{ upper_bound: 1 cumulative_count: 2 }} bucket {{ upper_bound: 1000000 cumulative_count: 4 }}"
        f" {infinity} }} }}"
    )
    assert family.type == metric_type
    assert family.histograms == ()
    assert rows(family) == [
        ("x_bucket", {"le": "1"}, 2),
        ("x_bucket", {"le": "1e+06"}, 4),
        ("x_bucket", {"le": "+Inf"}, 5),
        ("x_sum", {}, 9),
        ("x_count", {}, 5),
    ]


def test_float_counts_of_classic_histograms_are_kept() -> None:
    """A float histogram's counts win over the integer fields."""
    (family,) = parse(
        'name: "x" type: HISTOGRAM metric { histogram { sample_count_float: 2.5 sample_sum: 9'
        " bucket { upper_bound: 1 cumulative_count_float: 1.5 } } }"
    )
    assert [value for _, _, value in rows(family)] == [1.5, 2.5, 9, 2.5]


INTEGER_NATIVE = (
    "sample_count: 6 sample_sum: 1.5 schema: 3 zero_threshold: 0.001 zero_count: 1"
    " positive_span { offset: -2 length: 2 } positive_delta: 1 positive_delta: 1"
    " negative_span { offset: 0 length: 1 } negative_span { offset: 3 length: 0 } negative_delta: 2"
)


def test_integer_native_histograms_keep_their_deltas() -> None:
    """A native histogram becomes one value with spans and deltas and gives no classic samples."""
    (family,) = parse(
        f'name: "x" type: HISTOGRAM metric {{ label {{ name: "a" value: "b" }} timestamp_ms: 5'
        f" histogram {{ {INTEGER_NATIVE} }} }}"
    )
    assert family.samples == ()
    assert family.histograms == (
        NativeHistogram(
            name="x",
            labels=(("a", "b"),),
            timestamp_ms=5,
            count=6,
            sum=1.5,
            schema=3,
            zero_threshold=0.001,
            zero_count=1,
            negative_spans=(Span(0, 1), Span(3, 0)),
            negative_deltas=(2,),
            negative_counts=(),
            positive_spans=(Span(-2, 2),),
            positive_deltas=(1, 1),
            positive_counts=(),
            is_float=False,
        ),
    )


def test_float_native_histograms_keep_their_counts() -> None:
    """A float native histogram carries absolute counts and no deltas."""
    (family,) = parse(
        'name: "x" type: GAUGE_HISTOGRAM metric { histogram { sample_count_float: 2.5 zero_count_float: 0.5'
        " positive_span { offset: 1 length: 1 } positive_count: 2 } }"
    )
    (histogram,) = family.histograms
    assert (histogram.is_float, histogram.count, histogram.zero_count) == (True, 2.5, 0.5)
    assert (histogram.positive_counts, histogram.positive_deltas) == ((2.0,), ())


def test_an_empty_native_histogram_is_native() -> None:
    """A zero threshold alone marks a histogram as native."""
    (family,) = parse('name: "x" type: HISTOGRAM metric { histogram { zero_threshold: 0.001 } }')
    assert (len(family.histograms), family.samples) == (1, ())


def test_a_histogram_with_both_kinds_of_buckets_gives_both() -> None:
    """Classic buckets beside native ones are not lost."""
    (family,) = parse(
        f'name: "x" type: HISTOGRAM metric {{ histogram {{ {INTEGER_NATIVE}'
        f" bucket {{ upper_bound: 1 cumulative_count: 2 }} }} }}"
    )
    assert len(family.histograms) == 1
    assert [name for name, _, _ in rows(family)] == ["x_bucket", "x_bucket", "x_sum", "x_count"]


def test_the_later_of_two_families_of_one_name_wins() -> None:
    """A repeated family name replaces the earlier family whole."""
    families = parse(
        'name: "x" type: GAUGE metric { gauge { value: 1 } }',
        'name: "y" type: GAUGE metric { gauge { value: 2 } }',
        'name: "x" type: COUNTER metric { counter { value: 3 } }',
    )
    assert {family.name: (family.type, family.samples[0].value) for family in families} == {
        "x": ("counter", 3),
        "y": ("gauge", 2),
    }


UTF8_FAMILY = 'name: "my.x" type: GAUGE metric { label { name: "a b" value: "1" } gauge { value: 1 } }'


def test_utf8_names_pass_only_when_allowed() -> None:
    """Dotted names are refused by default and kept with UTF-8 names on."""
    (family,) = parse(UTF8_FAMILY, utf8_names=True)
    assert rows(family) == [("my.x", {"a b": "1"}, 1)]
    with pytest.raises(BadPushError, match=r'invalid metric name "my\.x"'):
        parse(UTF8_FAMILY)


def histogram(text: str) -> str:
    return f'name: "x" type: HISTOGRAM metric {{ histogram {{ {text} }} }}'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('name: "" type: GAUGE', 'invalid metric name ""'),
        ('name: "x" type: GAUGE metric { counter { value: 1 } }', "metric 1: .*got counter, want gauge"),
        ('name: "x" type: GAUGE metric { }', "got no value, want gauge"),
        ('name: "x" type: GAUGE metric { gauge { } counter { } }', "got gauge and counter, want gauge"),
        ('name: "x" type: GAUGE_HISTOGRAM metric { gauge { } }', "want histogram"),
        ('name: "x" type: GAUGE metric { label { name: "a.b" } gauge { } }', 'invalid label name "a.b"'),
        ('name: "x" type: GAUGE metric { label { value: "v" } gauge { } }', 'invalid label name ""'),
        ('name: "x" type: GAUGE metric { label { name: "__name__" } gauge { } }', '"__name__" is reserved'),
        (
            'name: "x" type: GAUGE metric { label { name: "a" } label { name: "a" } gauge { } }',
            'duplicate label name "a"',
        ),
        ('name: "x" type: SUMMARY metric { label { name: "quantile" } summary { } }', '"quantile" is reserved'),
        ('name: "x" type: HISTOGRAM metric { label { name: "le" } histogram { } }', '"le" is reserved'),
        (histogram("sample_count_float: -1"), "negative count for histogram, got -1"),
        (histogram("bucket { cumulative_count_float: -1 }"), "negative bucket population"),
        (histogram("zero_threshold: 1 schema: 9"), "schema 9"),
        (histogram("positive_span { length: 2 } positive_delta: 1"), "positive spans need 2 buckets, got 1"),
        (histogram("negative_span { length: 4000000000 }"), "negative spans need 4000000000 buckets, got 0"),
        (histogram("positive_span { length: 1 } positive_delta: -1"), "among the positive buckets"),
        (
            histogram("positive_span { length: 1 } positive_span { offset: -1 } positive_delta: 1"),
            "span 2 has the negative offset -1",
        ),
    ],
)
def test_bad_families_are_refused_by_message_and_name(text: str, fault: str) -> None:
    """A family that breaks a rule is named with its message number and what is wrong."""
    with pytest.raises(BadPushError, match=fault) as caught:
        parse('name: "ok" type: GAUGE metric { gauge { } }', text)
    assert caught.value.reason == "parse"
    name = text.partition('"')[2].partition('"')[0]
    assert str(caught.value).startswith(f'protobuf parsing error in message 2 (family "{name}"): ')


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"\x80", "message 1: the body ends inside the message's length"),
        (b"\xff" * 11, "message 1: the length takes more than 10 bytes"),
        (b"\x05abc", "message 1: the length says 5 bytes, but 3 are left"),
        (b"\x02\x0a\x05", "message 1: not a valid MetricFamily"),
        (b"foo 1\n", "message 1"),
        (delimit(b"\x0a\x01\xff"), "message 1 .*invalid metric name.*not valid UTF-8"),
        (delimit(b"\x0a\x01x\x12\x01\xff"), "invalid help.*not valid UTF-8"),
        (delimit(b"\x0a\x01x\x22\x0a\x0a\x06\x0a\x01a\x12\x01\xff\x1a\x00"), 'value of label "a".*not valid UTF-8'),
    ],
)
def test_broken_bytes_are_refused(body: bytes, fault: str) -> None:
    """Bytes that are no delimited messages are refused with the place."""
    with pytest.raises(BadPushError, match=fault):
        parse_delimited(body, utf8_names=False)


def test_every_cut_of_a_body_is_refused_or_ends_between_messages() -> None:
    """A body cut inside a message never passes."""
    first = delimit(message('name: "x" type: GAUGE metric { gauge { value: 1 } }'))
    body = first + delimit(message(histogram(INTEGER_NATIVE)))
    for end in range(1, len(body)):
        if end == len(first):
            continue
        with pytest.raises(BadPushError):
            parse_delimited(body[:end], utf8_names=False)


WRAPPERS: list[Callable[[bytes], bytes]] = [bytes, delimit, lambda junk: delimit(b"\x0a\x01x\x22" + junk)]


@given(
    wrap=st.sampled_from(WRAPPERS),
    junk=st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(range(0x40)), max_size=60).map(bytes)),
    utf8_names=st.booleans(),
)
def test_any_bytes_give_families_or_the_documented_error(
    wrap: Callable[[bytes], bytes], junk: bytes, utf8_names: bool
) -> None:
    """Any bytes give families with names, or the one documented error."""
    try:
        assert all(family.name for family in parse_delimited(wrap(junk), utf8_names=utf8_names))
    except BadPushError as error:
        assert error.reason == "parse"  # noqa: PT017 - either outcome is right
