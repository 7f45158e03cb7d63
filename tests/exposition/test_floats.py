import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exposition.floats import canonical_bucket_label, format_go_float


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-2.5, "-2.5"),
        (0.5, "0.5"),
        (0.0001, "0.0001"),
        (0.00012, "0.00012"),
        (0.00001, "1e-05"),
        (100000.0, "100000"),
        (123456.75, "123456.75"),
        (1e6, "1e+06"),
        (1234567.0, "1.234567e+06"),
        (1.5838723477166057e09, "1.5838723477166057e+09"),
        (1e21, "1e+21"),
        (1e100, "1e+100"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_floats_are_spelled_as_by_go(value: float, text: str) -> None:
    """Each float takes the form that Go's shortest `g` format gives."""
    assert format_go_float(value) == text


@given(st.floats(allow_nan=False))
def test_the_spelling_reads_back_as_the_same_float(value: float) -> None:
    """No digit that matters is lost, the sign of zero included."""
    back = float(format_go_float(value))
    assert (back, math.copysign(1, back)) == (value, math.copysign(1, value))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1", "1.0"),
        ("0", "0.0"),
        ("-0", "0.0"),
        ("-1", "-1.0"),
        ("1.0", "1.0"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("5.", "5.0"),
        ("100000", "100000.0"),
        ("1000000", "1e+06"),
        ("1e+06", "1e+06"),
        ("1e6", "1e+06"),
        ("1e-5", "1e-05"),
        ("+Inf", "+Inf"),
        ("inf", "+Inf"),
        ("-Infinity", "-Inf"),
        ("nan", "NaN"),
        ("1e400", "1e400"),
        ("1_0", "1_0"),
        ("٣", "٣"),
        (" 1", " 1"),
        ("+nan", "+nan"),
        ("", ""),
        ("abc", "abc"),
    ],
)
def test_bucket_labels_take_the_form_prometheus_stores(text: str, canonical: str) -> None:
    """Floats get OpenMetrics form; what Prometheus cannot read as a float stays untouched."""
    assert canonical_bucket_label(text) == canonical


@given(st.one_of(st.text(), st.floats().map(repr), st.floats().map(format_go_float)))
def test_canonical_labels_are_stable(text: str) -> None:
    """Canonical form of canonical form is itself."""
    once = canonical_bucket_label(text)
    assert canonical_bucket_label(once) == once
