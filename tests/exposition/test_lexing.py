import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.exposition.lexing import (
    LABEL_NAME,
    METRIC_NAME,
    QUOTED,
    is_utf8,
    parse_go_float,
    quote,
    unescape,
)
from bridge.exposition.write import escape_value
from tests.strategies import TEXTS


@pytest.mark.parametrize(
    ("text", "metric", "label"),
    [
        ("a", True, True),
        ("_", True, True),
        ("Z9_", True, True),
        (":", True, False),
        ("a:b", True, False),
        ("9a", False, False),
        ("", False, False),
        ("a.b", False, False),
        ("a-b", False, False),
        ("ü", False, False),
        ("a\n", False, False),
        ("a\u0660", False, False),
    ],
)
def test_names_are_legacy_names(text: str, *, metric: bool, label: bool) -> None:
    """Names are ASCII letters, digits and underscores, no digit first; only metric names have colons."""
    assert bool(METRIC_NAME.fullmatch(text)) is metric
    assert bool(LABEL_NAME.fullmatch(text)) is label


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ('""', ""),
        ('"a" b"', "a"),
        (r'"a\"b"', r"a\"b"),
        (r'"a\\"b"', r"a\\"),
        (r'"\t"', r"\t"),
        ('"ü{},=#"', "ü{},=#"),
        ('"a\r"', "a\r"),
        ('"', None),
        ('"a', None),
        ('a"', None),
        (r'"a\"', None),
        ('"a\nb"', None),
        ('"a\\\nb"', None),
        ('"a\\tb\nc"', None),
        ("", None),
    ],
)
def test_a_quoted_string_ends_at_its_quote(text: str, inner: str | None) -> None:
    """A quoted string reaches to the first quote that is not escaped, and never over the end of the line."""
    match = QUOTED.match(text)
    assert (match and match[1]) == inner


@given(TEXTS)
def test_an_escaped_text_is_read_back(text: str) -> None:
    """What is written as a label value is one quoted string, and gives the text again."""
    match = QUOTED.fullmatch(f'"{escape_value(text)}"')
    assert match is not None
    assert unescape(match[1]) == unescape(match[1], lenient=True) == text


@pytest.mark.parametrize(
    ("text", "lenient", "strict"),
    [
        ("", "", ""),
        ("a", "a", "a"),
        (r"\\", "\\", "\\"),
        (r"\n", "\n", "\n"),
        (r"\"", '"', '"'),
        (r"\\n", r"\n", r"\n"),
        (r"\\\n", "\\\n", "\\\n"),
        (r"\t", r"\t", None),
        (r"\N", r"\N", None),
        ("a\\", "a\\", None),
        ("\\\n", "\\\n", None),
        ("\\ü", "\\ü", None),
    ],
)
def test_escapes_are_resolved(text: str, lenient: str, strict: str | None) -> None:
    """Three escapes are known; another one is kept as written if lenient, else refused."""
    assert unescape(text, lenient=True) == lenient
    if strict is None:
        with pytest.raises(ValueError, match="invalid escape sequence"):
            unescape(text)
    else:
        assert unescape(text) == strict


@given(st.floats(allow_nan=False))
@example(-0.0)
@example(5e-324)
@example(1.7976931348623157e308)
def test_every_float_is_read_from_its_spelling(value: float) -> None:
    """Each float comes back from its shortest spelling, the sign of zero included."""
    back = parse_go_float(repr(value))
    assert (back, math.copysign(1, back)) == (value, math.copysign(1, value))


GO_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|nan", re.IGNORECASE | re.ASCII)


@given(st.text("0123456789+-.eEinfatyNIxp_ \n\u0661", max_size=8))
@example("1_0")
@example(" 1")
@example("1\n")
@example("0x1")
@example("+nan")
@example("\u0661")
@example("1e309")
@example("-1e309")
@example("1e-400")
def test_any_text_is_a_number_exactly_if_go_says_so(text: str) -> None:
    """Nothing is read as a number but Go's decimal forms within the range of a float."""
    try:
        value = parse_go_float(text)
    except ValueError:
        assert not GO_FLOAT.fullmatch(text) or (math.isinf(float(text)) and "n" not in text.lower())
    else:
        assert GO_FLOAT.fullmatch(text)
        assert repr(value) == repr(float(text))


@given(st.binary(max_size=20))
@example(b"\xed\xb2\x80")
@example(b"\xff")
def test_broken_utf8_is_told_from_valid(data: bytes) -> None:
    """Text decoded with surrogate escapes is valid exactly when the bytes were."""
    try:
        data.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    assert is_utf8(data.decode("utf-8", "surrogateescape")) is valid


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("", '""'),
        ("a b ü", '"a b ü"'),
        ('"\\', r'"\"\\"'),
        ("\n\t\r\x00", r'"\n\t\r\x00"'),
        ("\u2028\x85", r'"\u2028\x85"'),
        (b"\xff\x80".decode("utf-8", "surrogateescape"), r'"\xff\x80"'),
        ("a" * 200, '"' + "a" * 200 + '"'),
        ("a" * 201, '"' + "a" * 200 + '"...'),
    ],
)
def test_texts_are_spelled_for_messages(text: str, spelled: str) -> None:
    """A message shows text in quotes, unprintable and broken bytes as escapes, and the start of a long one."""
    assert quote(text) == spelled


@given(st.binary())
def test_a_quoted_text_can_be_sent(data: bytes) -> None:
    """Whatever a body holds, the message about it is one printable line of valid UTF-8."""
    spelled = quote(data.decode("utf-8", "surrogateescape"))
    assert spelled.isprintable()
    assert spelled.encode().decode() == spelled
