import math
from typing import NamedTuple

import pytest

from bridge.errors import BadPushError
from bridge.exposition.protobuf import parse_delimited
from bridge.model import Exemplar, NativeHistogram, Span
from tests.exposition.test_protobuf import delimit, message, parse


def native(text: str, kind: str = "HISTOGRAM") -> NativeHistogram:
    """Read a family with one native histogram."""
    (family,) = parse(f'name: "x" type: {kind} metric {{ histogram {{ {text} }} }}')
    (histogram,) = family.histograms
    return histogram


ONE = "positive_span { offset: 0 length: 1 } positive_delta: 2"
VALID: dict[str, str] = {
    "lowest schema": f"sample_count: 2 schema: -4 {ONE}",
    "highest schema": f"sample_count: 2 schema: 8 {ONE}",
    "observations of NaN": f"sample_count: 3 sample_sum: nan {ONE}",
    "no observations": "positive_span { offset: 0 length: 0 }",
    "no observations, custom": "schema: -53 positive_span { offset: 0 length: 0 } bucket { upper_bound: 1 }",
    "buckets that grow and shrink": "sample_count: 6 positive_span { offset: 0 length: 3 }"
    " positive_delta: 3 positive_delta: -1 positive_delta: -1",
    "far below": f"sample_count: 2 schema: 3 {ONE.replace('offset: 0', 'offset: -1000')}",
    "float sums are not exact": "sample_count_float: 0.3 positive_span { length: 3 }"
    " positive_count: 0.1 positive_count: 0.1 positive_count: 0.10000000001",
    "float, observations of NaN": "sample_count_float: 9 positive_span { length: 1 } positive_count: 0.5",
    "more than a float can count": "sample_count: 9007199254740993 positive_span { length: 1 }"
    " positive_delta: 9007199254740993",
}


@pytest.mark.parametrize("name", VALID)
def test_what_prometheus_takes_is_taken(name: str) -> None:
    """Histograms at the edges of what is valid pass."""
    assert native(VALID[name]).name == "x"


def test_whole_counts_are_exact() -> None:
    """A count beyond what a float holds is not rounded."""
    assert native(VALID["more than a float can count"]).count == 9007199254740993


class Wrong(NamedTuple):
    """A histogram that is refused, and words of the reason."""

    text: str
    words: str


CUSTOM = "schema: -53 sample_count: 2 bucket { upper_bound: 1 } bucket { upper_bound: 2.5 }"
WRONG: dict[str, Wrong] = {
    "schema too low": Wrong(f"sample_count: 2 schema: -5 {ONE}", "schema -5 is unknown, want -4 to 8, or -53"),
    "schema too high": Wrong(f"sample_count: 2 schema: 9 {ONE}", "schema 9 is unknown"),
    "fewer buckets than spans say": Wrong("positive_span { length: 2 } positive_delta: 1", "need 2 buckets, got 1"),
    "more buckets than spans say": Wrong("negative_span { length: 0 } negative_delta: 1", "need 0 buckets, got 1"),
    "negative bucket": Wrong("positive_span { length: 2 } positive_delta: 1 positive_delta: -2", "negative bucket"),
    "negative float bucket": Wrong("sample_count_float: 1 positive_span { length: 1 } positive_count: -1", "negative"),
    "NaN in a bucket": Wrong("sample_count_float: 1 positive_span { length: 1 } positive_count: nan", "negative"),
    "spans run back": Wrong(
        "sample_count: 2 positive_span { length: 1 } positive_span { offset: -1 length: 1 } positive_delta: 1"
        " positive_delta: 0",
        "positive span 2 has the negative offset -1",
    ),
    "count too large": Wrong(f"sample_count: 3 {ONE}", "count says 3 observations, its buckets hold 2"),
    "count too small": Wrong(f"sample_count: 1 {ONE}", "count says 1 observations"),
    "count too small for NaN": Wrong(f"sample_count: 1 sample_sum: nan {ONE}", "count says 1"),
    "float count too small": Wrong(
        "sample_count_float: 0.3 positive_span { length: 1 } positive_count: 0.31", "its buckets hold 0.31"
    ),
    "negative count": Wrong(f"sample_count_float: -1 {ONE}", "negative count"),
    "negative zero bucket": Wrong(f"zero_count_float: -1 {ONE}", "negative zero bucket population"),
    "negative zero threshold": Wrong("zero_threshold: -1", "zero threshold is -1"),
    "zero threshold NaN": Wrong("zero_threshold: nan", "zero threshold is NaN"),
    "zero threshold without end": Wrong("zero_threshold: inf", "zero threshold is +Inf"),
    "custom without bounds": Wrong(f"sample_count: 2 schema: -53 {ONE}", "without bounds; want the classic buckets"),
    "custom beyond the last": Wrong(
        f"{CUSTOM} {ONE.replace('offset: 0', 'offset: 3')}", "buckets 3 to 3, but the bounds make 3"
    ),
    "custom before the first": Wrong(f"{CUSTOM} {ONE.replace('offset: 0', 'offset: -1')}", "custom buckets -1 to -1"),
    "custom with a zero bucket": Wrong(f"{CUSTOM} zero_count: 1 {ONE}", "with a zero bucket"),
    "custom with negative buckets": Wrong(f"{CUSTOM} negative_span {{ length: 0 }} {ONE}", "or negative buckets"),
    "custom bounds that fall": Wrong(
        f"{CUSTOM} bucket {{ upper_bound: 2 }} {ONE}", "bounds of custom buckets are 1, 2.5, 2"
    ),
    "custom bound NaN": Wrong(f"{CUSTOM} bucket {{ upper_bound: nan }} {ONE}", "want rising, finite ones"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_prometheus_refuses_is_refused(name: str) -> None:
    """The error names family and metric, what was got and what is wanted."""
    body = delimit(message(f'name: "x" type: HISTOGRAM metric {{ histogram {{ {WRONG[name].text} }} }}'))
    with pytest.raises(BadPushError, match="protobuf parsing error in message 1") as caught:
        parse_delimited(body, utf8_names=False)
    assert 'family "x"' in str(caught.value)
    assert "metric 1: " in str(caught.value)
    assert WRONG[name].words in str(caught.value)


@pytest.mark.parametrize("last", ["", "bucket { upper_bound: inf }"], ids=["as pushed", "with infinity"])
def test_custom_bounds_come_from_the_classic_buckets(last: str) -> None:
    """client_model has no other place for them; the infinite one is not a bound."""
    spans = ONE.replace("offset: 0", "offset: 2")
    histogram = native(f"{CUSTOM} {last} {spans}")
    assert (histogram.custom_values, histogram.positive_spans) == ((1.0, 2.5), (Span(2, 1),))


def test_a_gauge_histogram_is_marked() -> None:
    """Receivers must not look for resets in it."""
    assert native(f"sample_count: 2 {ONE}", "GAUGE_HISTOGRAM").is_gauge
    assert not native(f"sample_count: 2 {ONE}").is_gauge


TRACE = 'label { name: "trace_id" value: "t" } value: 0.5'


def test_exemplars_of_native_histograms_need_a_time() -> None:
    """Those without one are left out, as Prometheus does; seconds and nanoseconds become ms."""
    histogram = native(
        f"sample_count: 2 {ONE} exemplars {{ {TRACE} }}"
        f" exemplars {{ {TRACE} timestamp {{ seconds: 12 nanos: 345999999 }} }}"
    )
    assert histogram.exemplars == (Exemplar((("trace_id", "t"),), 0.5, 12_345),)


def test_exemplars_of_native_histograms_stand_in_time_order() -> None:
    """Clients write them by value, and Prometheus refuses one that is older than the one before."""
    given = "".join(f" exemplars {{ value: {value} timestamp {{ seconds: {at} }} }}" for value, at in ((1, 9), (2, 7)))
    histogram = native(f"sample_count: 2 {ONE}{given}")
    assert [(one.value, one.timestamp_ms) for one in histogram.exemplars] == [(2.0, 7_000), (1.0, 9_000)]


def test_exemplars_of_counters_and_buckets() -> None:
    """They stay with their sample, with a time or without one."""
    counter, classic = parse(
        'name: "c_total" type: COUNTER metric { counter { value: 1'
        f" exemplar {{ {TRACE} timestamp {{ seconds: -1 }} }} }} }}",
        'name: "h" type: HISTOGRAM metric { histogram { sample_count: 1 bucket { upper_bound: 1 cumulative_count: 1'
        f" exemplar {{ {TRACE} }} }} }} }}",
    )
    assert [sample.exemplars for sample in counter.samples] == [(Exemplar((("trace_id", "t"),), 0.5, -1000),)]
    assert [(sample.name, len(sample.exemplars)) for sample in classic.samples] == [
        ("h_bucket", 1),
        ("h_bucket", 0),
        ("h_sum", 0),
        ("h_count", 0),
    ]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ('label { name: "a" value: "1" } label { name: "a" value: "2" }', 'label "a" twice'),
        ('label { value: "1" }', 'label ""'),
        (f'label {{ name: "a" value: "{"v" * 128}" }}', "129 characters, want at most 128"),
        (f'label {{ name: "a" value: "{"é" * 127}" }}', ""),
    ],
    ids=["twice", "no name", "too long", "as long as allowed"],
)
def test_labels_of_exemplars(labels: str, words: str) -> None:
    """Names are there and not repeated, and all together have at most 128 characters."""
    text = f'name: "c" type: COUNTER metric {{ counter {{ value: 1 exemplar {{ {labels} value: 1 }} }} }}'
    if not words:
        assert parse(text)[0].samples[0].exemplars
        return
    with pytest.raises(BadPushError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_a_sum_of_nan_stays() -> None:
    """It says that NaN was observed."""
    assert math.isnan(native(VALID["observations of NaN"]).sum)
