"""Durations in settings and flags."""

import pytest

from bridge.durations import FOREVER_MS, parse_duration_s, parse_ttl_ms


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
