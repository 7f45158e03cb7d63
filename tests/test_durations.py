"""Durations in settings and flags."""

import pytest

from bridge.durations import parse_duration_s


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1h30m", 5400), ("500ms", 0.5), ("1d", 86400), ("1w2d", 777600), ("0", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are read as Prometheus reads them."""
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "s", "30 s", "1m1h", "-1s", "1.5h", 5, None])
def test_bad_durations(text: object) -> None:
    """Anything else is refused with an example of what is wanted."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration_s(text)
