"""Patterns are RE2's, anchored, and one that is none is named with RE2's complaint."""

import re

import pytest

from bridge.regex import Pattern, compile_anchored

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


TEMPLATES = [
    ("(.)(.)?", "a", "$1|$2|$0|$3", "a||a|"),
    ("(.*)", "a", "$1x ${1}x $1_ $1-", " ax  a-"),
    ("(?P<n>.)(?P<nx>.)", "ab", "$n ${n} $nx ${nx} $nxy $N", "a a b b  "),
    ("(.*)", "a", "$$1 $$$1 $$$$", "$1 $a $$"),
    ("(.*)", "a", "$ $- ${ ${} ${1 $", "$ $- ${ ${} ${1 $"),
    ("(.*)", "a", "$01 $1000000000 ${1é}$é²", "  ²"),
    ("(.*)", "é", "<$1>", "<é>"),
    ("", "", "x$1", "x"),
]


@pytest.mark.parametrize(("pattern", "text", "template", "made"), TEMPLATES)
def test_templates_mean_what_go_makes_of_them(pattern: str, text: str, template: str, made: str) -> None:
    """A name is as long as it can be, unknown ones are empty, and a dollar sign that names nothing is itself."""
    compiled = Pattern(pattern)
    groups = compiled.groups(text.encode())
    assert groups is not None
    assert compiled.template(template)(groups).decode() == made


def test_a_text_that_does_not_fit_has_no_groups() -> None:
    """The pattern has to cover the whole text."""
    assert Pattern("a(.)").groups(b"abc") is None
    assert not Pattern("a(.)").fits(b"abc")
