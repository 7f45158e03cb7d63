"""Selectors: what is one, what is none and where, and which groups they select.

The tables are put to a real Prometheus too (tests/blackbox/test_selector_oracle.py).
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.selector import Matcher, Selector, parse_selector

Series = tuple[tuple[str, str], ...]

VALID = [
    "rows",
    "rows{}",
    " rows { } ",
    'rows{job="a"}',
    'rows{job="a",}',
    '{job="a"}',
    "{job='a'}",
    "{job=`a`}",
    '{job="a",instance!="db1"}',
    '{job=~"a|b",instance!~"db.*"}',
    '\t{ job \n=\r"a" , } ',
    '# a comment\n{job="a"} # and another } one',
    '{job="a#b"}',
    '{job!=""}',
    '{job=~".+"}',
    '{job!~""}',
    '{job!~".*"}',
    '{job="a",env=""}',
    '{job="a",env!~".+"}',
    '{env=~"|x",job="a"}',
    '{job="a",job="b"}',
    'rows{job=~"Z.*"}',
    r'{job="\x5a\u00fcric\150 \U0001F600"}',
    r'{job="Z\xc3\xbcrich \a\b\f\n\r\t\v\\\""}',
    r"{job='say \'hi\''}",
    r'{job="say \"hi\""}',
    """{job='say "hi"'}""",
    r"{job=`back\slash`}",
    "{job=`two\nlines`}",
    r'{job="two\nlines"}',
    r'{job="\xff"}',
    '{job="a}b"}',
    "rate:5m",
    ":rows",
    "_",
    "by",
    "sum",
    "Offset",
    "infinite",
    '{on="x"}',
    '{inf="x"}',
    '{__name__="rows"}',
    '{__name__=~"ro.*",job="a"}',
    '{__name__!~"ro.*",job="a"}',
    'rows{__name__="other"}',
    'rows{__name__=~"ro.+"}',
    '{__name__="bool"}',
    '{job=~"(?i)A"}',
    r'{instance=~"db\\d+"}',
    r"{instance=~`db\d+`}",
    '{job=~"(?P<n>a)"}',
    '{job="a", instance = "db1" }',
]

BROKEN = [
    ("", "1:1"),
    ("  ", "1:3"),
    ("{", "1:2"),
    ("rows{", "1:6"),
    ('rows{job="a"', "1:13"),
    ('rows{job="a",', "1:14"),
    ("rows{}{}", "1:7"),
    ('rows{job="a"}x', "1:14"),
    ('{job="a"}}', "1:10"),
    ('{job="a"};', "1:10"),
    ('{,job="a"}', "1:2"),
    ('{job="a",,}', "1:10"),
    ('{job="a" instance="b"}', "1:10"),
    ('\n\n{job="a" ; }', "3:10"),
    ("{job}", "1:5"),
    ("{job=}", "1:6"),
    ("{job=a}", "1:6"),
    ("{job=5}", "1:6"),
    ('{job=="a"}', "1:6"),
    ('{job!"a"}', "1:5"),
    ('{job>"a"}', "1:5"),
    ('{job= ~"a"}', "1:7"),
    ('{="a"}', "1:2"),
    ('{5="a"}', "1:2"),
    ('{a:b="a"}', "1:3"),
    ('{ä="a"}', "1:2"),
    ('{job="a', "1:6"),
    ('{job="a\n"}', "1:6"),
    ("{job='a\n'}", "1:6"),
    ("{job=`a", "1:6"),
    (r'{job="a\"}', "1:6"),
    (r'{job="\q"}', "1:6"),
    (r"""{job="\'"}""", "1:6"),
    (r"""{job='\"'}""", "1:6"),
    (r'{job="\x4"}', "1:6"),
    (r'{job="\18"}', "1:6"),
    (r'{job="\400"}', "1:6"),
    (r'{job="\u12"}', "1:6"),
    (r'{job="\ud800"}', "1:6"),
    (r'{job="\U00110000"}', "1:6"),
    ('{job=~"("}', "1:2"),
    ('{job=~"a)(b"}', "1:2"),
    ('{job="a",instance!~"*"}', "1:10"),
    ('{job=~"(?=a)"}', "1:2"),
    (r'{job=~"\xff"}', "1:2"),
    ("rows[5m]", "1:5"),
    ("rows offset 5m", "1:6"),
    ("rows @ 5", "1:6"),
    ('rows{job="a"} or rows', "1:15"),
    ("(rows)", "1:1"),
    ("-rows", "1:1"),
    ("5", "1:1"),
    ("5m", "1:1"),
    ("'rows'", "1:1"),
    ("a.b", "1:2"),
    ("time()", "1:5"),
    ("on", "1:1"),
    ("BOOL", "1:1"),
    ("ignoring", "1:1"),
    ("group_left", "1:1"),
    ("group_right", "1:1"),
    ("atan2", "1:1"),
    ("inf", "1:1"),
    ("NaN", "1:1"),
]

EMPTY = [
    "{}",
    "{ }",
    '{job=""}',
    '{job=~".*"}',
    '{job=~""}',
    '{job!="a"}',
    '{job!~".+"}',
    '{job=~"a|"}',
    '{job=~".*",instance!="x"}',
    '{__name__=~".*"}',
]

SERIES: list[Series] = [
    (("__name__", "rows"), ("job", "a")),
    (("__name__", "rows"), ("instance", "db1"), ("job", "a")),
    (("__name__", "rows"), ("instance", "db2"), ("job", "b")),
    (("__name__", "rows"), ("env", "x"), ("job", "a")),
    (("__name__", "other"), ("instance", "my-db1"), ("job", "a")),
    (("__name__", "rate:5m"), ("job", "a#b")),
    (("__name__", "by"), ("job", "b")),
    (("__name__", "bool"), ("job", "a}b"), ("on", "x")),
    (("__name__", "rows"), ("job", "Zürich 😀")),
    (("__name__", "rows"), ("job", 'Zürich \a\b\f\n\r\t\v\\"')),
    (("__name__", "rows"), ("job", "say 'hi'")),
    (("__name__", "rows"), ("job", 'say "hi"')),
    (("__name__", "rows"), ("job", r"back\slash")),
    (("__name__", "rows"), ("job", "two\nlines")),
    (("__name__", "rows"), ("job", "A")),
]


def selects(text: str, series: Series) -> bool:
    """Tell whether a selector finds a group that holds just this series, all of its labels being grouping labels."""
    labels = dict(series)
    return parse_selector(text).matches(labels, lambda: {labels["__name__"]})


@pytest.mark.parametrize("text", VALID)
def test_a_selector_is_read(text: str) -> None:
    """Whatever Prometheus reads is read."""
    assert parse_selector(text).matchers


@pytest.mark.parametrize(("text", "where"), BROKEN)
def test_a_broken_selector_is_refused_where_it_breaks(text: str, where: str) -> None:
    """An error gives line and column, what was got and what is wanted."""
    with pytest.raises(ValueError, match=f"^{where}: parse error: .*got .+") as error:
        parse_selector(text)
    assert "want" in str(error.value) or "RE2" in str(error.value) or "UTF-8" in str(error.value)


@pytest.mark.parametrize("text", EMPTY)
def test_a_selector_that_would_select_everything_is_refused(text: str) -> None:
    """One matcher at least must not match the empty string, as in Prometheus' API."""
    with pytest.raises(ValueError, match="must contain at least one non-empty matcher"):
        parse_selector(text)


def test_every_operator_and_string_has_its_value() -> None:
    """Matchers come in order, with the strings' escapes resolved."""
    read = [
        (matcher.label, matcher.operator, matcher.value)
        for matcher in parse_selector(r'rows{a="\x41\t",b!=`\t`,c=~"x|y",d!~' + r"'\''" + "}").matchers
    ]
    assert read == [
        ("__name__", "=", "rows"),
        ("a", "=", "A\t"),
        ("b", "!=", r"\t"),
        ("c", "=~", "x|y"),
        ("d", "!~", "'"),
    ]


def test_names_may_be_quoted_as_in_prometheus_3() -> None:
    """A quoted name alone is the metric's, one before an operator is a label's."""
    read = parse_selector('{"rows.total", "the job"="a"}').matchers
    assert [(matcher.label, matcher.value) for matcher in read] == [("__name__", "rows.total"), ("the job", "a")]
    for broken in ('{""}', '{""="a"}'):
        with pytest.raises(ValueError, match=r'^1:2: parse error: got .*want a label name or "}"'):
            parse_selector(broken)


def test_a_dot_matches_a_newline() -> None:
    """Patterns cover newlines too, as in Prometheus 3; 2.42 differs."""
    assert selects('{job=~"two.lines"}', (("__name__", "rows"), ("job", "two\nlines")))


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("rows", True),
        ("other", True),
        ("more", False),
        ('{job="a",__name__=~"rows|more"}', True),
        ('rows{__name__=~"ro.*"}', True),
        ('rows{__name__="other"}', False),
        ('{job="a",__name__!="more"}', True),
        ('{job="a",__name__!="rows"}', False),
        ('{job="a",__name__!~"ro.*"}', False),
        ('other{__name__!="rows"}', False),
        ('rows{job="b"}', False),
    ],
)
def test_names_are_those_of_the_series_that_a_group_holds(text: str, selected: bool) -> None:
    """A name finds a group that holds it, an excluded one a group that does not hold it."""
    assert parse_selector(text).matches({"job": "a"}, lambda: {"rows", "other"}) is selected


def test_names_are_not_asked_for_in_vain() -> None:
    """Only a selector with a name, whose labels match, looks at a group's series."""

    def names() -> set[str]:
        raise AssertionError("asked")

    assert parse_selector('{job="a"}').matches({"job": "a"}, names)
    assert not parse_selector('rows{job="b"}').matches({"job": "a"}, names)


@given(st.text(alphabet="a_:{}=!~\"'`,\\x41u \n#()é", max_size=20))
def test_any_text_is_a_selector_or_a_value_error(text: str) -> None:
    """Whatever is sent, there is a selector or the one documented error."""
    try:
        read = parse_selector(text)
    except ValueError:
        return
    assert isinstance(read, Selector)


@given(st.text(max_size=20), st.sampled_from(["=", "!=", "=~", "!~"]))
def test_values_survive_go_quoting(value: str, operator: str) -> None:
    """A value quoted in Go's way is read back as it was."""
    value = value.encode(errors="replace").decode()
    spelled = "".join(f"\\U{ord(character):08x}" for character in value)
    text = f'{{job{operator}"{spelled}",other="x"}}'
    try:
        read = parse_selector(text).matchers[0]
    except ValueError as error:
        assert "RE2" in str(error)  # noqa: PT017 - a value that is no pattern
        return
    assert isinstance(read, Matcher)
    assert (read.operator, read.value) == (operator, value)
