import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.backoff import MAX_RETRY_AFTER_S, backoff_s, delay_s, parse_retry_after

NOON_S = 1_445_412_480.0  # 2015-10-21 07:28:00 UTC


@pytest.mark.parametrize(("attempt", "ceiling_s"), [(1, 0.03), (2, 0.06), (3, 0.12), (9, 5.0), (10**9, 5.0)])
def test_doubles_up_to_the_cap(attempt: int, ceiling_s: float) -> None:
    """The ceiling doubles with each failure and stays at the cap, however many there are."""
    assert backoff_s(attempt, 1.0) == pytest.approx(ceiling_s)


@given(st.integers(1, 100), st.floats(0, 1))
def test_jitter_stays_in_the_upper_half(attempt: int, random_01: float) -> None:
    """Jitter never goes below half the ceiling nor above it."""
    ceiling_s = backoff_s(attempt, 1.0)
    assert ceiling_s / 2 <= backoff_s(attempt, random_01) <= ceiling_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Wed, 99 Oct 2015 07:28:30 GMT", None),
        ("Wed, 21 Oct 2015 07:28:30", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds and HTTP-dates are understood, the past is zero, anything else is nothing."""
    assert parse_retry_after(value, NOON_S) == seconds


@given(st.text(max_size=60))
def test_retry_after_of_any_text(value: str) -> None:
    """No header makes the parser fail or ask for negative time."""
    seconds = parse_retry_after(value, NOON_S)
    assert seconds is None or seconds >= 0


def test_the_receivers_wish_comes_first() -> None:
    """Retry-After replaces the backoff, except when it is absent, zero or beyond the limit."""
    assert delay_s(1, 7.0, 1.0) == 7.0
    assert delay_s(1, None, 1.0) == pytest.approx(0.03)
    assert delay_s(1, 0.0, 1.0) == pytest.approx(0.03)
    assert delay_s(1, 1e12, 1.0) == MAX_RETRY_AFTER_S
