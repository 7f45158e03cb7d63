import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import BadPushError
from bridge.exposition.text import parse_go_float, parse_text

Row = tuple[str, tuple[tuple[str, str], ...], float, int | None]

VALID: list[tuple[str, list[tuple[str, str, str, list[Row]]]]] = [
    ("", []),
    ("  \t", []),
    ("\n  \n#\n# a comment\n# EOF\n# UNIT x y\n#\r\n", []),
    ("# HELP\n# TYPE\n# HELP x\n# TYPE x  \n# TYPE x counter\n", []),
    ("foo 1\n", [("foo", "untyped", "", [("foo", (), 1.0, None)])]),
    (" \tfoo{} 1 \t-5\n  ", [("foo", "untyped", "", [("foo", (), 1.0, -5)])]),
    ('f{b="1",a="2",}3e-1 +7\n', [("f", "untyped", "", [("f", (("b", "1"), ("a", "2")), 0.3, 7)])]),
    ('f { a = "x" , b = "" } 1\n', [("f", "untyped", "", [("f", (("a", "x"), ("b", "")), 1.0, None)])]),
    ('f{a="\\\\ \\n \\" ü {}, #"} 1\n', [("f", "untyped", "", [("f", (("a", '\\ \n " ü {}, #'),), 1.0, None)])]),
    ("f 1 9223372036854775807\n", [("f", "untyped", "", [("f", (), 1.0, 2**63 - 1)])]),
    ("f 1 -9223372036854775808\n", [("f", "untyped", "", [("f", (), 1.0, -(2**63))])]),
    ('{"f",a="x"} 1\n', [("f", "untyped", "", [("f", (("a", "x"),), 1.0, None)])]),
    ('{a="x","f"} 1\n', [("f", "untyped", "", [("f", (("a", "x"),), 1.0, None)])]),
    ('# TYPE "f" gauge\nf{"a"="x"} 1\n', [("f", "gauge", "", [("f", (("a", "x"),), 1.0, None)])]),
    ('#HELP f a \\\\ \\n \\" \r\n#TYPE f GAUGE\nf 1\n', [("f", "gauge", 'a \\ \n " \r', [("f", (), 1.0, None)])]),
    ("f 1\n# HELP f late\n", [("f", "untyped", "late", [("f", (), 1.0, None)])]),
    ("# TYPE f coun\\ter\nf 1\n", [("f", "counter", "", [("f", (), 1.0, None)])]),
    (
        'a 1\nb 2\na{x="y"} 3\n',
        [
            ("a", "untyped", "", [("a", (), 1.0, None), ("a", (("x", "y"),), 3.0, None)]),
            ("b", "untyped", "", [("b", (), 2.0, None)]),
        ],
    ),
    (
        (
            "# TYPE s summary\ns_sum 1\n"
            's{quantile="0.50"} 2\ns 3\ns_count{quantile="1"} 4\ns{quantile="NaN"} 5\ns_bucket 6\n'
        ),
        [
            (
                "s",
                "summary",
                "",
                [("s_sum", (), 1.0, None), ("s", (("quantile", "0.50"),), 2.0, None), ("s_count", (), 4.0, None)],
            ),
            ("s_bucket", "untyped", "", [("s_bucket", (), 6.0, None)]),
        ],
    ),
    (
        '# TYPE h histogram\nh_bucket{le="1",le="2"} 1.5\nh_bucket 2\nh 3\nh{le="+Inf"} 4\nh_sum -5\nh_created 6\n',
        [
            (
                "h",
                "histogram",
                "",
                [
                    ("h_bucket", (("le", "2"),), 1.5, None),
                    ("h_bucket", (("le", "+Inf"),), 4.0, None),
                    ("h_sum", (), -5.0, None),
                ],
            ),
            ("h_created", "untyped", "", [("h_created", (), 6.0, None)]),
        ],
    ),
    (
        '# TYPE g gauge_histogram\ng_bucket{le="1"} 1\n',
        [("g", "gaugehistogram", "", [("g_bucket", (("le", "1"),), 1.0, None)])],
    ),
    ('h_bucket{le="x"} -1\n', [("h_bucket", "untyped", "", [("h_bucket", (("le", "x"),), -1.0, None)])]),
]

BROKEN: list[tuple[bytes, int, str]] = [
    (b"bla 3.14\nblubber 42", 2, "unexpected end of input stream"),
    (b"# comment", 1, "end the last line with a line feed"),
    (b"foo 1\r\n", 1, 'expected float as value, got "1\\r"; the line ends in CR LF'),
    (b"a 1\n\r\n", 2, 'invalid metric name, got "\\r"'),
    (b"# TYPE a counter\r\n", 1, 'unknown metric type "counter\\r"'),
    (b'm{l="\\t"} 1\n', 1, "invalid escape sequence '\\t'"),
    (b"# HELP m \\t\n", 1, "invalid escape sequence '\\t'"),
    (b"# HELP m a\\\n", 1, "invalid escape sequence"),
    (b'm{l="new\nline"} 1\n', 1, "contains unescaped new-line"),
    (b'm{@="x"} 1\n', 1, 'invalid label name for metric "m"'),
    (b"m{,} 1\n", 1, 'invalid label name for metric "m"'),
    (b'm{__name__="x"} 1\n', 1, 'label name "__name__" is reserved'),
    (b'm{l="a",l="b"} 1\n', 1, 'duplicate label names for metric "m"'),
    (b'm{l+="x"} 1\n', 1, "expected '=' after label name"),
    (b"m{l=x} 1\n", 1, "expected '\"' at start of label value"),
    (b'm{l="x"y} 1\n', 1, 'unexpected end of label value "x"'),
    (b'm{l="\xff"} 1\n', 1, 'invalid label value "\\xff"'),
    (b'# TYPE m summary\nm{quantile="foo"} 1\n', 2, "expected float as value for 'quantile' label"),
    (b'# TYPE m histogram\nm_bucket{le="foo"} 1\n', 2, "expected float as value for 'le' label"),
    (b"m 1 2.5\n", 1, 'expected integer as timestamp, got "2.5"'),
    (b"m 1 \n", 1, 'expected integer as timestamp, got ""'),
    (b"m 1 9223372036854775808\n", 1, "expected integer as timestamp"),
    (b"m 1 1_0\n", 1, "expected integer as timestamp"),
    (b"m 1 2 3\n", 1, "spurious string after timestamp"),
    (b"m 1 2 \n", 1, 'spurious string after timestamp: " "'),
    (b"m\n", 1, 'expected float as value, got ""'),
    (b"m 0x1p-3\n", 1, "expected float as value"),
    (b"m 1_2\n", 1, "expected float as value"),
    (b"m +nan\n", 1, "expected float as value"),
    (b"m 1e400\n", 1, "expected float as value"),
    (b"\n# HELP m one\n# HELP m two\n", 3, 'second HELP line for metric name "m"'),
    (b"# TYPE m counter\n# TYPE m counter\n", 2, 'second TYPE line for metric name "m", or TYPE reported after'),
    (b"m 1\n# TYPE m counter\n", 2, "TYPE reported after samples"),
    (b"# TYPE m summary\n# TYPE m_count counter\n", 2, 'second TYPE line for metric name "m"'),
    (b"# TYPE m info\n", 1, 'unknown metric type "info"'),
    (b"# TYPE m counter \n", 1, "unknown metric type"),
    (b"# HELP 1m x\n", 1, "invalid metric name in comment"),
    (b"# TYPE m{} counter\n", 1, "invalid metric name in comment"),
    (b"1m 1\n", 1, "invalid metric name"),
    (b"{} 1\n", 1, "invalid metric name"),
    (b'a 1\n{l="x"} 1\n', 2, "invalid metric name"),
    (b'foo"bar" 1\n', 1, "expected float as value"),
    (b'{"a","b"} 1\n', 1, 'multiple metric names for metric "a"'),
    (b'{"a.b"} 1\n', 1, 'invalid metric name "a.b"'),
    (b'm{"a.b"="x"} 1\n', 1, 'invalid label name "a.b"'),
    (b'{"a" "b"} 1\n', 1, "unexpected end of metric name"),
    (b"# TYPE h histogram\nh_count -1\n", 2, 'negative count for histogram "h"'),
    (b'# TYPE h histogram\nh_bucket{le="1"} -1\n', 2, 'negative bucket population for histogram "h"'),
]


@pytest.mark.parametrize(("body", "expected"), VALID)
def test_valid_bodies(body: str, expected: list[tuple[str, str, str, list[Row]]]) -> None:
    """A body that Go accepts gives its families in order, names, labels and values as pushed."""
    families = parse_text(body.encode())
    assert [
        (f.name, f.type, f.help, [(s.name, s.labels, s.value, s.timestamp_ms) for s in f.samples]) for f in families
    ] == expected


@pytest.mark.parametrize(("body", "line", "message"), BROKEN)
def test_broken_bodies(body: bytes, line: int, message: str) -> None:
    """A body that Go refuses is refused with Go's wording and the number of the line."""
    with pytest.raises(BadPushError) as caught:
        parse_text(body)
    assert caught.value.reason == "parse"
    assert str(caught.value).startswith(f"text format parsing error in line {line}: ")
    assert message in str(caught.value)


def test_samples_carry_their_line() -> None:
    """Each sample knows its 1-based line."""
    families = parse_text(b"# x\n\na 1\nb{} 2\na 3\n")
    assert [[s.line for s in f.samples] for f in families] == [[3, 5], [4]]


def test_utf8_names_only_when_allowed() -> None:
    """Quoted names outside the legacy set are accepted with utf8_names."""
    (family,) = parse_text('{"a.ü","b c"="x"} 1\n'.encode(), utf8_names=True)
    assert (family.name, family.samples[0].labels) == ("a.ü", (("b c", "x"),))


def test_broken_utf8_in_help_is_replaced() -> None:
    """A HELP text with broken UTF-8 does not refuse the body, and comes out as valid text."""
    (family,) = parse_text(b"# HELP a x\xffy\na 1\n")
    assert family.help == "x\ufffdy"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("5.", 5.0), (".5", 0.5), ("+1E+2", 100.0), ("-0", -0.0), ("1e-400", 0.0), ("00012", 12.0)],
        *[("inf", math.inf), ("-Infinity", -math.inf), ("+iNf", math.inf)],
    ],
)
def test_go_floats(text: str, value: float) -> None:
    """Every spelling that ParseFloat takes gives its value."""
    assert parse_go_float(text) == value
    assert math.copysign(1, parse_go_float(text)) == math.copysign(1, value)


@pytest.mark.parametrize("text", ["NaN", "nan", "nAn"])
def test_go_nan(text: str) -> None:
    """NaN is taken in any case."""
    assert math.isnan(parse_go_float(text))


@pytest.mark.parametrize(
    "text",
    ["", ".", "+", "e5", "1e", "1e400", "-1e400", "0x10", "1_0", "+nan", "-nan", " 1", "1 ", "1\n", "\u0661", "in"],
)
def test_not_go_floats(text: str) -> None:
    """What Python alone would take, or would make infinite, is refused."""
    with pytest.raises(ValueError, match="float"):
        parse_go_float(text)


def only_families_or_bad_push(body: bytes) -> None:
    for utf8_names in (False, True):
        try:
            families = parse_text(body, utf8_names=utf8_names)
        except BadPushError as error:
            str(error).encode()
        else:
            assert all(family.samples for family in families)


ALPHABET = st.sampled_from(
    [*'ab_:{}",=\\ \t\n#1.e+-N', "\r", "\xff", "ü", "# TYPE a ", "summary\n", "quantile", "_sum"]
)


@given(st.one_of(st.binary(), st.lists(ALPHABET).map(lambda parts: "".join(parts).encode("latin-1"))))
@example(b'# TYPE a summary\na{quantile="\xff"} 1\n')
def test_any_bytes(body: bytes) -> None:
    """Any bytes give families or BadPushError with a text that can be sent, and nothing else."""
    only_families_or_bad_push(body)


@pytest.mark.parametrize("body", [body for body, _ in VALID])
def test_every_prefix(body: str) -> None:
    """A valid body cut anywhere gives families or BadPushError, and is refused when cut inside a line."""
    raw = body.encode()
    for length in range(len(raw)):
        only_families_or_bad_push(raw[:length])
        if raw[:length].rpartition(b"\n")[2].strip(b" \t"):
            with pytest.raises(BadPushError):
                parse_text(raw[:length])
