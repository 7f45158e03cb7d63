"""Durations in settings and flags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.durations import FOREVER_MS, duration_text, parse_duration_s, parse_ttl_ms, ttl_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1h30m", 5400), ("500ms", 0.5), ("1d", 86400), ("1w2d", 777600), ("0", 0), ("290y", 9145440000)],
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are read as Prometheus reads them."""
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "s", "30 s", "1m1h", "-1s", "1.5h", 5, None, "9" * 400 + "ms"])
def test_bad_durations(text: object) -> None:
    """Anything else is refused with an example of what is wanted."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration_s(text)


@pytest.mark.parametrize("text", ["291y", "290y1ms", "999999999999y"])
def test_longer_than_any_time(text: str) -> None:
    """What would overflow times in ms is refused."""
    with pytest.raises(ValueError, match="too long a duration"):
        parse_duration_s(text)


@pytest.mark.parametrize(("text", "ttl_ms"), [("0", 0), ("inf", FOREVER_MS), ("25h", 90_000_000), ("1ms", 1)])
def test_ttls(text: str, ttl_ms: int) -> None:
    """A TTL is a duration, 0 or inf."""
    assert parse_ttl_ms(text) == ttl_ms


@given(st.integers(0, 290 * 365 * 86_400_000))
def test_durations_are_written_as_they_are_read(ms: int) -> None:
    """What is shown of a duration or TTL may be put into a configuration."""
    assert parse_duration_s(duration_text(ms / 1000)) * 1000 == pytest.approx(ms)
    assert parse_ttl_ms(ttl_text(ms)) == ms


@pytest.mark.parametrize("text", ["30ms", "1m", "25h", "30d", "90m", "1500ms", "0s"])
def test_durations_keep_their_units(text: str) -> None:
    """The shortest way is the one that people write."""
    assert duration_text(parse_duration_s(text)) == text


def test_what_never_ends_is_written_as_such() -> None:
    """Infinity has its own word."""
    assert ttl_text(FOREVER_MS) == "inf"
