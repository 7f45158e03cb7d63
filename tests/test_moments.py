"""Points in time as people write them, and the one way in which we spell them."""

import pytest

from bridge.moments import parse_moment_ms, time_text

NOW_MS = 1_700_000_000_123


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("6h", NOW_MS - 6 * 3600 * 1000),
        ("1h30m", NOW_MS - 5400 * 1000),
        ("0", 0),
        ("1700000000", 1_700_000_000_000),
        ("1700000000.5", 1_700_000_000_500),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20.123Z", 1_700_000_000_123),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
        ("2023-11-14T23:13:20 01:00", 1_700_000_000_000),
    ],
)
def test_moments_are_read(text: str, at_ms: int) -> None:
    """A duration counts back from now, a number is Unix seconds, RFC 3339 has its zone."""
    assert parse_moment_ms(text, NOW_MS) == at_ms


@pytest.mark.parametrize("text", ["", "soon", "-1h", "2023-11-14", "2023-11-14T22:13:20", "99999-01-01T00:00:00Z"])
def test_other_texts_are_refused(text: str) -> None:
    """What is no moment, or one without a zone, is told with the three forms."""
    with pytest.raises(ValueError, match=r"want a duration back from now \(7d\), RFC 3339 .* or unix seconds"):
        parse_moment_ms(text, NOW_MS)


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (-1, "1969-12-31T23:59:59.999Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (-62_135_596_800_001, "-62135596800.001"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "253402300800.000"),
        (-(1 << 63), "-9223372036854775.808"),
    ],
)
def test_any_number_is_spelled(at_ms: int, text: str) -> None:
    """A sample's own time may be any number, also one that has no year."""
    assert time_text(at_ms) == text


@pytest.mark.parametrize("at_ms", [0, 1, 999, NOW_MS, 1_700_000_000_999, 4_102_444_799_999])
def test_a_moment_that_is_spelled_is_read_as_itself(at_ms: int) -> None:
    """To the millisecond: what a command prints may be given to the next one."""
    assert parse_moment_ms(time_text(at_ms), NOW_MS) == at_ms
