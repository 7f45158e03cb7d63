"""Patterns are RE2's, anchored, and one that is none is named with RE2's complaint."""

import re

import pytest

from bridge.regex import compile_anchored

FITS = [
    ("db.*", "db1", True),
    ("db.*", "my_db1", False),
    ("db", "db1", False),
    ("a|b", "b", True),
    ("a|b", "ab", False),
    ("", "", True),
    ("", "a", False),
    (".*", "two\nlines", True),
    ("zwei.zeilen", "zwei\nzeilen", True),
    ("Z.rich", "Zürich", True),
    ("(?i)batch", "BATCH", True),
    (r"\d+", "12", True),
    (r"\d+", "१२", False),
    ("a$", "a\n", False),
]
BROKEN = [
    ("(", "missing )"),
    ("a)(b", "unexpected )"),
    ("(?=a)", "invalid perl operator"),
    (r"(a)\1", "invalid escape sequence"),
    ("a{1001}", "invalid repetition size"),
    ("\udcff", "not valid UTF-8"),
]


@pytest.mark.parametrize(("pattern", "text", "fits"), FITS)
def test_a_pattern_fits_whole_texts(pattern: str, text: str, fits: bool) -> None:
    """A pattern has to cover the text from end to end, newlines as well."""
    assert compile_anchored(pattern)(text) is fits


@pytest.mark.parametrize(("pattern", "complaint"), BROKEN)
def test_a_broken_pattern_is_named(pattern: str, complaint: str) -> None:
    """What is no RE2 pattern is a ValueError with the pattern and the complaint, and nothing on stderr."""
    with pytest.raises(ValueError, match=f"got {re.escape(repr(pattern))}.*{re.escape(complaint)}"):
        compile_anchored(pattern)


def test_a_pattern_cannot_take_for_ever() -> None:
    """A pattern that backtracking engines need exponential time for is answered at once."""
    assert not compile_anchored("(a*)*b")("a" * 10_000)
