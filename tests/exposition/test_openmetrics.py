import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadPushError
from bridge.exposition.openmetrics import parse_openmetrics
from bridge.model import Exemplar, Family, Sample

HISTOGRAM = (
    "# TYPE h histogram\n"
    'h_bucket{le="1.0"} 1 # {trace_id="a # b"} 0.5 1.5\n'
    'h_bucket{le="+Inf"} 2\nh_count 2\nh_sum 3\nh_created 1.5\n# EOF\n'
)

TRACED = Exemplar((("trace_id", "a # b"),), 0.5, 1500)
VALID: list[tuple[str, tuple[Family, ...]]] = [
    ("# EOF", ()),
    ("# EOF\n", ()),
    ("# TYPE a counter\n# EOF\n", ()),
    ("a 1\n# EOF\n", (Family("a", "untyped", "", (Sample("a", (), 1.0, None, 1),)),)),
    (
        (
            "# TYPE a_s counter\n# UNIT a_s s\n# HELP a_s x\\ny\n"
            'a_s_total{l="\\"\\x"} 1 1.789 # {} 1\na_s_created{l="\\"\\x"} 5\n# EOF\n'
        ),
        (
            Family(
                "a_s",
                "counter",
                "x\ny",
                (
                    Sample("a_s_total", (("l", '"\\x'),), 1.0, 1789, 4, (Exemplar((), 1.0),)),
                    Sample("a_s_created", (("l", '"\\x'),), 5.0, None, 5),
                ),
                unit="s",
            ),
        ),
    ),
    (
        HISTOGRAM,
        (
            Family(
                "h",
                "histogram",
                "",
                (
                    Sample("h_bucket", (("le", "1.0"),), 1.0, None, 2, (TRACED,)),
                    Sample("h_bucket", (("le", "+Inf"),), 2.0, None, 3),
                    Sample("h_count", (), 2.0, None, 4),
                    Sample("h_sum", (), 3.0, None, 5),
                    Sample("h_created", (), 1.5, None, 6),
                ),
            ),
        ),
    ),
    (
        '# TYPE g gaugehistogram\ng_bucket{le="+Inf"} 2\ng_gcount 2\ng_gsum -3\n# EOF\n',
        (
            Family(
                "g",
                "gaugehistogram",
                "",
                (
                    Sample("g_bucket", (("le", "+Inf"),), 2.0, None, 2),
                    Sample("g_gcount", (), 2.0, None, 3),
                    Sample("g_gsum", (), -3.0, None, 4),
                ),
            ),
        ),
    ),
    (
        (
            "# TYPE s summary\n# HELP s \n# UNIT s \n"
            's{quantile="0.5"} -1\ns_count 1\n# TYPE b unknown\nb 1 -1\nb 2 1e0\n# EOF\n'
        ),
        (
            Family(
                "s",
                "summary",
                "",
                (Sample("s", (("quantile", "0.5"),), -1.0, None, 4), Sample("s_count", (), 1.0, None, 5)),
            ),
            Family("b", "untyped", "", (Sample("b", (), 1.0, -1000, 7), Sample("b", (), 2.0, 1000, 8))),
        ),
    ),
    (
        '# TYPE i info\ni_info{v="1"} 1\n# TYPE t stateset\nt{t="on"} 1\nt{t="off"} 0\n# EOF\n',
        (
            Family("i", "info", "", (Sample("i_info", (("v", "1"),), 1.0, None, 2),)),
            Family(
                "t",
                "stateset",
                "",
                (Sample("t", (("t", "on"),), 1.0, None, 4), Sample("t", (("t", "off"),), 0.0, None, 5)),
            ),
        ),
    ),
    ('{"a",b="x"} 1\n# EOF\n', (Family("a", "untyped", "", (Sample("a", (("b", "x"),), 1.0, None, 1),)),)),
]

BROKEN: list[tuple[bytes, int, str]] = [
    (b"", 1, "data does not end with # EOF"),
    (b"a 1\n", 1, "data does not end with # EOF"),
    (b"a 1\n# EOF\n\n", 3, "data after # EOF"),
    (b"# EOF\na 1\n", 2, "data after # EOF"),
    (b"a 1\n\n# EOF\n", 2, "blank line"),
    (b"a 1\r\n# EOF\n", 1, "CR LF"),
    (b"\xef\xbb\xbfa 1\n# EOF\n", 1, "byte order mark"),
    (b'a{b="\xff"} 1\n# EOF\n', 1, "invalid UTF-8, got byte 0xff"),
    (b"# comment\n# EOF\n", 1, "invalid comment"),
    (b"#TYPE a counter\n# EOF\n", 1, "invalid comment"),
    (b"# TYPE a  counter\n# EOF\n", 1, "unknown metric type"),
    (b"# TYPE a untyped\n# EOF\n", 1, "unknown metric type"),
    (b"# HELP a\n# EOF\n", 1, "invalid comment"),
    (b"# TYPE a gauge\n# TYPE a gauge\n# EOF\n", 2, "second TYPE line"),
    (b"# HELP a \n# HELP a x\n# EOF\n", 2, "second HELP line"),
    (b"# UNIT a_s s\n# UNIT a_s s\n# EOF\n", 2, "second UNIT line"),
    (b"# UNIT a s\n# EOF\n", 1, "unit"),
    (b"# TYPE a_s info\n# UNIT a_s s\n# EOF\n", 2, "leave UNIT out"),
    (b"# TYPE a gauge\na 1\n# HELP a x\n# EOF\n", 3, "after its samples"),
    (b'a 1\nb 1\na{x="y"} 1\n# EOF\n', 3, "has ended"),
    (b"# TYPE a counter\na_total 1\nb 1\na_total 2\n# EOF\n", 4, "has ended"),
    (b"a_total 1\n# TYPE a counter\n# EOF\n", 2, "taken by family"),
    (b'# TYPE a gauge\na{x="1"} 1\na{x="2"} 1\na{x="1"} 2 5\n# EOF\n', 4, "interleaved"),
    (b"a 1\na 1\n# EOF\n", 2, "given twice"),
    (b"a 1 2\na 1 2\n# EOF\n", 2, "given twice"),
    (b"# TYPE a counter\na 1\n# EOF\n", 2, "want a_total, a_created"),
    (b"# TYPE a counter\na_created 1\n# EOF\n", 3, "without a sample a_total"),
    (b"# TYPE a counter\na_total -1\n# EOF\n", 2, "neither a negative value nor NaN"),
    (b"# TYPE a counter\na_total NaN\n# EOF\n", 2, "neither a negative value nor NaN"),
    (b"# TYPE a summary\na_count -1\n# EOF\n", 2, "neither a negative value nor NaN"),
    (b'# TYPE a histogram\na_bucket{le="1.0"} 1\n# EOF\n', 3, 'without a bucket le="+Inf"'),
    (b"# TYPE a histogram\na_count 1\n# EOF\n", 3, 'without a bucket le="+Inf"'),
    (b"# TYPE a histogram\na_bucket 1\n# EOF\n", 2, "expected float as value for 'le' label"),
    (b'# TYPE a histogram\na_bucket{le="NaN"} 1\n# EOF\n', 2, "label le is"),
    (b"# TYPE a summary\na 1\n# EOF\n", 2, "expected float as value for 'quantile' label"),
    (b'# TYPE a summary\na{quantile="2"} 1\n# EOF\n', 2, "want 0 to 1"),
    (b"# TYPE a info\na_info 2\n# EOF\n", 2, "want 1"),
    (b'# TYPE a stateset\na{b="x"} 1\n# EOF\n', 2, "has no label"),
    (b'# TYPE a stateset\na{a="x"} 2\n# EOF\n', 2, "want 0 or 1"),
    (b"a 1 # {} 1\n# EOF\n", 1, "exemplar on"),
    (b"# TYPE a counter\na_total 1 # x 1\n# EOF\n", 2, "invalid exemplar"),
    (b"# TYPE a counter\na_total 1 # {} x\n# EOF\n", 2, "expected float as value"),
    (b'# TYPE a counter\na_total 1 # {b="%s"} 1\n# EOF\n' % (b"x" * 128), 2, "129 characters"),
    (b"a  1\n# EOF\n", 1, "expected one blank"),
    (b"a 1 \n# EOF\n", 1, "expected one blank"),
    (b"a 1 x\n# EOF\n", 1, "expected seconds as timestamp"),
    (b"a\t1\n# EOF\n", 1, "expected one blank"),
    (b"a 1 2 3\n# EOF\n", 1, "expected one blank"),
    (b"a 1 NaN\n# EOF\n", 1, "out of range"),
    (b"a 1 Inf\n# EOF\n", 1, "out of range"),
    (b"a 1 1e300\n# EOF\n", 1, "out of range"),
    (b"a 0x1\n# EOF\n", 1, "expected float as value"),
    (b'a{b="x",} 1\n# EOF\n', 1, "invalid label name"),
    (b'a{b="x" } 1\n# EOF\n', 1, "expected ',' or '}'"),
    (b'a{b="x",b="y"} 1\n# EOF\n', 1, "duplicate label name"),
    (b'a{b="x} 1\n# EOF\n', 1, "invalid label value"),
    (b"a{b=x} 1\n# EOF\n", 1, "invalid label value"),
    (b'a{__name__="x"} 1\n# EOF\n', 1, "reserved"),
    (b'{b="x"} 1\n# EOF\n', 1, "invalid metric name"),
    (b'{"a.b"} 1\n# EOF\n', 1, 'invalid metric name "a.b"'),
    (b'a{"b.c"="x"} 1\n# EOF\n', 1, 'invalid label name "b.c"'),
    (b"1a 1\n# EOF\n", 1, "invalid metric name"),
]


@pytest.mark.parametrize(("body", "expected"), VALID)
def test_valid_bodies(body: str, expected: tuple[Family, ...]) -> None:
    """A valid body gives its families, with exemplars, and timestamps in ms."""
    assert parse_openmetrics(body.encode()) == expected


@pytest.mark.parametrize(("body", "line", "message"), BROKEN)
def test_broken_bodies(body: bytes, line: int, message: str) -> None:
    """A broken body is refused with the number of the line and the reason."""
    with pytest.raises(BadPushError) as caught:
        parse_openmetrics(body)
    assert caught.value.reason == "parse"
    assert str(caught.value).startswith(f"OpenMetrics parsing error in line {line}: ")
    assert message in str(caught.value)


def test_utf8_names_only_when_allowed() -> None:
    """Quoted names outside the legacy set are accepted with utf8_names."""
    body = b'# TYPE "a.b" gauge\n{"a.b","c d"="x"} 1\n# EOF\n'
    (family,) = parse_openmetrics(body, utf8_names=True)
    assert (family.name, family.type, family.samples[0].labels) == ("a.b", "gauge", (("c d", "x"),))


def only_families_or_bad_push(body: bytes) -> None:
    for utf8_names in (False, True):
        try:
            families = parse_openmetrics(body, utf8_names=utf8_names)
        except BadPushError as error:
            str(error).encode()
        else:
            assert all(family.samples for family in families)


TOKENS = st.sampled_from(
    [*'ab_:{}",=\\ \n#1.e+-', "\r", "ü", "# TYPE a ", "counter\n", "histogram\n", "a_total", "le", "\n# EOF\n"]
)


@given(
    st.one_of(
        st.binary(),
        st.lists(TOKENS).map(lambda parts: "".join([*parts, "\n# EOF"]).encode()),
        st.lists(TOKENS).map(lambda parts: "".join(parts).encode("latin-1")),
    )
)
def test_any_bytes(body: bytes) -> None:
    """Any bytes give families or BadPushError with a text that can be sent, and nothing else."""
    only_families_or_bad_push(body)


@pytest.mark.parametrize("body", [body for body, _ in VALID])
def test_every_prefix(body: str) -> None:
    """A body cut anywhere before the end of its # EOF is refused."""
    raw = body.removesuffix("\n").encode()
    for length in range(len(raw)):
        only_families_or_bad_push(raw[:length])
        with pytest.raises(BadPushError, match="OpenMetrics parsing error in line"):
            parse_openmetrics(raw[:length])
