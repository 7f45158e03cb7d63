import pytest

from bridge.exposition.native_view import json_fields, text_rows
from bridge.exposition.write import ExposedFamily, family_json, write_text
from bridge.model import Labels, NativeHistogram, Span
from bridge.wire.histogram import CUSTOM_SCHEMA, encode_histogram

JOB: Labels = (("job", "j"),)


def histogram(schema: int = 0, *, is_float: bool = False, bounds: tuple[float, ...] = ()) -> NativeHistogram:
    custom = schema == CUSTOM_SCHEMA
    return NativeHistogram(
        "x",
        (),
        None,
        9.5 if is_float else 9,
        -1.5,
        schema,
        0.0 if custom else 0.25,
        0 if custom else 2.5 if is_float else 2,
        () if custom else (Span(1, 1),),
        () if is_float or custom else (1,),
        (1.0,) if is_float else (),
        (Span(0, 2), Span(1, 1)),
        () if is_float else (1, -1, 5),
        (1.0, 0.0, 5.0) if is_float else (),
        is_float=is_float,
        custom_values=bounds,
    )


BUCKETS = {
    "schema 0": (
        histogram(),
        [[1, "-2", "-1", "1"], [3, "-0.25", "0.25", "2"], [0, "0.5", "1", "1"], [0, "4", "8", "5"]],
    ),
    "float": (
        histogram(is_float=True),
        [[1, "-2", "-1", "1"], [3, "-0.25", "0.25", "2.5"], [0, "0.5", "1", "1"], [0, "4", "8", "5"]],
    ),
    "schema 1": (
        histogram(1),
        [
            [1, "-1.4142135623730951", "-1", "1"],
            [3, "-0.25", "0.25", "2"],
            [0, "0.7071067811865476", "1", "1"],
            [0, "2", "2.8284271247461903", "5"],
        ],
    ),
    "schema -4": (
        histogram(-4),
        [
            [1, "-65536", "-1", "1"],
            [3, "-0.25", "0.25", "2"],
            [0, "1.52587890625e-05", "1", "1"],
            [0, "4.294967296e+09", "2.81474976710656e+14", "5"],
        ],
    ),
    "custom": (
        histogram(CUSTOM_SCHEMA, bounds=(1.0, 2.0, 5.0)),
        [[0, "-Inf", "1", "1"], [0, "5", "+Inf", "5"]],
    ),
}


@pytest.mark.parametrize("name", BUCKETS)
def test_json_has_the_buckets(name: str) -> None:
    """Each bucket that is not empty, from below: what is inclusive (0 upper, 1 lower, 3 both), bounds, population."""
    one, buckets = BUCKETS[name]
    fields = json_fields(encode_histogram(one))
    assert fields["buckets"] == buckets
    assert (fields["count"], fields["sum"]) == ("9.5" if one.is_float else "9", "-1.5")


def test_the_highest_bucket_has_no_end() -> None:
    """Bounds beyond what a float holds are infinite."""
    one = NativeHistogram("x", (), None, 1, 0, -4, 0, 0, (), (), (), (Span(64, 1),), (1,), (), is_float=False)
    assert json_fields(encode_histogram(one))["buckets"] == [[0, "2.7430620343968443e+303", "+Inf", "1"]]


def test_text_has_count_and_sum() -> None:
    """As Go's encoder writes it: an infinite bucket, the sum and the count."""
    assert list(text_rows("x", JOB, encode_histogram(histogram()))) == [
        ("x_bucket", (*JOB, ("le", "+Inf")), 9.0),
        ("x_sum", JOB, -1.5),
        ("x_count", JOB, 9.0),
    ]


CLASSIC = (("x_bucket", (*JOB, ("le", "+Inf")), 9.0), ("x_sum", JOB, -1.5), ("x_count", JOB, 9.0))


@pytest.mark.parametrize("samples", [(), CLASSIC], ids=["native alone", "both"])
def test_text_has_each_histogram_once(samples: tuple[tuple[str, Labels, float], ...]) -> None:
    """Classic buckets beside the native ones stand for both."""
    family = ExposedFamily("x", "histogram", "", samples, ((JOB, encode_histogram(histogram())),))
    assert write_text([family]) == (
        '# TYPE x histogram\nx_bucket{job="j",le="+Inf"} 9\nx_sum{job="j"} -1.5\nx_count{job="j"} 9\n'
    )


def test_json_prefers_the_native_buckets() -> None:
    """As a Pushgateway of today; without spans the classic ones are shown."""
    family = ExposedFamily("x", "histogram", "", CLASSIC, ((JOB, encode_histogram(histogram())),))
    (metric,) = family_json(family, 0)["metrics"]
    assert (metric["buckets"], metric["count"]) == (BUCKETS["schema 0"][1], "9")
    empty = NativeHistogram("x", (), None, 0, 0, 0, 0.5, 0, (), (), (), (), (), (), is_float=False)
    (metric,) = family_json(ExposedFamily("x", "histogram", "", CLASSIC, ((JOB, encode_histogram(empty)),)), 0)[
        "metrics"
    ]
    assert metric["buckets"] == {"+Inf": "9"}
