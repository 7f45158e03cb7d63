import json
import math
import subprocess
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.errors import BadPushError
from bridge.exposition.formats import parse_body
from bridge.exposition.text import parse_text
from bridge.exposition.write import ExposedFamily, escape_help, escape_value, family_json, write_text
from bridge.flatten import FlattenOptions, flatten
from bridge.groups import key_of, store
from bridge.model import Family, Labels
from bridge.registry import Groups, check_foreign
from bridge.web.views import group_families, groups_json
from bridge.wire.head import labels_of
from tests.blackbox.servers import needs
from tests.strategies import LEGACY_NAMES, METRIC_NAMES, TEXTS, TYPES, VALUES, labels

Row = tuple[str, Labels, float]
TEXT_TYPES = {"counter", "gauge", "summary", "histogram", "untyped"}
"""What every reader of text 0.0.4 knows."""

SUMMARY = ExposedFamily(
    "s",
    "summary",
    "",
    (("s", (("a", "b"), ("quantile", "0.5")), 1.0), ("s_sum", (("a", "b"),), -2.0), ("s_count", (("a", "b"),), 1e6)),
)
HISTOGRAM = ExposedFamily(
    "h",
    "histogram",
    "Seconds.",
    (
        ("h_bucket", (("le", "1.0"),), 1.0),
        ("h_bucket", (("le", "+Inf"),), 2.0),
        ("h_sum", (), 2.5),
        ("h_count", (), 2.0),
    ),
)


def gauge(name: str, value: float, pairs: Labels = (), kind: str = "gauge", text: str = "") -> ExposedFamily:
    return ExposedFamily(name, kind, text, ((name, pairs, value),))


def read(families: list[ExposedFamily], *, utf8_names: bool = False) -> dict[str, Family]:
    """Read a page as parsers stricter than ours do too: known types, each family in one piece, nothing dropped."""
    page = write_text(families)
    parsed = parse_text(page.encode(), utf8_names=utf8_names)
    lines = page.split("\n")[:-1]
    kinds = [line.rpartition(" ")[2] for line in lines if line.startswith("# TYPE ")]
    assert set(kinds) <= TEXT_TYPES
    assert len(kinds) == len(parsed)
    for family in parsed:
        numbers = [sample.line for sample in family.samples]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert sum(len(family.samples) for family in parsed) == sum(not line.startswith("# ") for line in lines)
    return {family.name: family for family in parsed}


def rows(family: Family) -> list[tuple[str, Labels, str]]:
    return [(sample.name, sample.labels, repr(sample.value)) for sample in family.samples]


def series(name: str, pairs: Labels) -> tuple[str, frozenset[tuple[str, str]]]:
    """Identity of a series to Prometheus, to which an empty label is none."""
    return name, frozenset(pair for pair in pairs if pair[1])


def first_rows(families: list[ExposedFamily]) -> list[tuple[str, Labels, str]]:
    """All samples as `rows` gives them, the first of each series."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], tuple[str, Labels, str]] = {}
    for family in families:
        for name, pairs, value in family.samples:
            found.setdefault(series(name, pairs), (name, pairs, repr(value)))
    return list(found.values())


def test_families_are_written_as_by_go() -> None:
    """Families come in name order, each with HELP if it has one, TYPE, and its series in their order."""
    odd = gauge("a", -math.inf, (("b", 'c\\d"e\nf'), ("c", "")), text='one\\two\n"three"')
    assert write_text([HISTOGRAM, SUMMARY, odd]) == (
        '# HELP a one\\\\two\\n"three"\n'
        "# TYPE a gauge\n"
        'a{b="c\\\\d\\"e\\nf",c=""} -Inf\n'
        "# HELP h Seconds.\n"
        "# TYPE h histogram\n"
        'h_bucket{le="1.0"} 1\n'
        'h_bucket{le="+Inf"} 2\n'
        "h_sum 2.5\n"
        "h_count 2\n"
        "# TYPE s summary\n"
        's{a="b",quantile="0.5"} 1\n'
        's_sum{a="b"} -2\n'
        's_count{a="b"} 1e+06\n'
    )


def test_nothing_is_written_as_nothing() -> None:
    """No families give an empty text, which is a valid body."""
    assert write_text([]) == ""


SIMPLE_TYPES = ("gauge", "counter", "untyped")
SOURCES = st.lists(
    st.tuples(
        METRIC_NAMES,
        st.sampled_from(SIMPLE_TYPES),
        TEXTS,
        st.lists(st.tuples(labels(LEGACY_NAMES), VALUES), min_size=1, max_size=3),
    ),
    max_size=6,
).map(
    lambda sources: [
        ExposedFamily(name, kind, text, tuple((name, pairs, value) for pairs, value in points))
        for name, kind, text, points in sources
    ]
)


@settings(deadline=None)
@given(SOURCES)
@example([gauge("x", 1.0), gauge("y", 2.0), gauge("x", 3.0, (("a", '\r\\\n"'),), "counter")])
@example([gauge("x", math.nan), gauge("x", math.inf), gauge("x", -math.inf), gauge("x", -0.0), gauge("x", 5e-324)])
def test_what_is_written_is_read_back(families: list[ExposedFamily]) -> None:
    """Each family is written once, with the values of its sources in their order, whatever their text."""
    parsed = read(families)
    assert list(parsed) == sorted({family.name for family in families})
    for name, family in parsed.items():
        sources = [source for source in families if source.name == name]
        assert rows(family) == first_rows(sources)
        types = {source.type for source in sources}
        assert {family.type} == (types if len(types) == 1 else {"untyped"})
        # A reader takes the blanks before a HELP text for the gap behind the name.
        assert family.help == next((source.help for source in sources if source.help), "").lstrip(" \t")


@pytest.mark.parametrize("family", [SUMMARY, HISTOGRAM], ids=["summary", "histogram"])
def test_compound_families_are_read_back(family: ExposedFamily) -> None:
    """Quantiles, buckets, sums and counts of several groups join one family again."""
    other = ExposedFamily(
        family.name,
        family.type,
        "",
        tuple((name, (*pairs, ("job", "b")), value) for name, pairs, value in family.samples),
    )
    (parsed,) = read([family, other]).values()
    assert (parsed.name, parsed.type, parsed.help) == (family.name, family.type, family.help)
    assert rows(parsed) == [(name, pairs, repr(value)) for name, pairs, value in family.samples + other.samples]


@pytest.mark.parametrize(
    ("types", "shown"),
    [
        (["gauge"], "gauge"),
        (["gauge", "gauge"], "gauge"),
        (["gauge", "counter"], "untyped"),
        (["counter", "gauge", "counter"], "untyped"),
        (["untyped", "gauge"], "untyped"),
        (["histogram", "summary"], "untyped"),
        (["info"], "gauge"),
        (["stateset"], "gauge"),
        (["gaugehistogram"], "histogram"),
        (["unknown"], "untyped"),
    ],
    ids=" ".join,
)
def test_types_that_differ_between_groups_are_shown_as_untyped(types: list[str], shown: str) -> None:
    """A type conflict hides no values; types that text 0.0.4 lacks are shown as their nearest."""
    name = "x_bucket" if shown == "histogram" else "x"
    families = [
        ExposedFamily("x", kind, "", ((name, (("le", f"{at}.0"),), float(at)),)) for at, kind in enumerate(types)
    ]
    lines = [f'{name}{{le="{at}.0"}} {at}\n' for at in range(len(types))]
    assert write_text(families) == f"# TYPE {name if shown == 'untyped' else 'x'} {shown}\n" + "".join(lines)


def test_the_first_help_wins() -> None:
    """Of several HELP texts the first that is not empty is shown."""
    texts = ["", "first", "second"]
    families = [gauge("x", float(at), (("n", str(at)),), text=text) for at, text in enumerate(texts)]
    assert write_text(families).startswith("# HELP x first\n# TYPE x gauge\nx")


@pytest.mark.parametrize("other", [(), (("a", ""),)], ids=["same", "empty label"])
def test_a_series_that_two_groups_have_is_shown_once(other: Labels) -> None:
    """The first of two samples that are one series to Prometheus stands for both."""
    assert write_text([gauge("x", 1.0), gauge("x", 2.0, other)]) == "# TYPE x gauge\nx 1\n"


def test_names_outside_the_legacy_set_are_quoted() -> None:
    """A metric name that is quoted goes inside the braces, as Prometheus 3 has it; each name is quoted for itself."""
    odd = gauge("a.b", 1.0, (("c", "1"), ("d:e", '"')), text="Text.")
    assert write_text([odd, gauge("é", 2.0), gauge("a:b", 3.0)]) == (
        '# HELP "a.b" Text.\n'
        '# TYPE "a.b" gauge\n'
        '{"a.b",c="1","d:e"="\\""} 1\n'
        "# TYPE a:b gauge\n"
        "a:b 3\n"
        '# TYPE "é" gauge\n'
        '{"é"} 2\n'
    )


@pytest.mark.parametrize(("name", "label"), [("a.b", "c"), ("a", "c.d"), ("ü", "e f"), ('a"\\\n', "c"), ("1", "2\n")])
def test_names_outside_the_legacy_set_are_read_back(name: str, label: str) -> None:
    """What push.enable_utf8_names lets in is written so that one such name does not spoil the whole page."""
    (parsed,) = read([gauge(name, 1.0, ((label, "x"),), text="t")], utf8_names=True).values()
    assert (parsed.name, parsed.type, parsed.help) == (name, "gauge", "t")
    assert rows(parsed) == [(name, ((label, "x"),), "1.0")]


def of_openmetrics(name: str, kind: str, *suffixes: str, bound: Labels = ()) -> ExposedFamily:
    return ExposedFamily(name, kind, "", tuple((name + suffix, bound, 1.0) for suffix in suffixes))


B = (("job", "b"),)
COUNTER = of_openmetrics("x", "counter", "_total", "_created")
OVERLAPS = {
    "summary and its count": ([SUMMARY, gauge("s_count", 1.0)], "s untyped, s_count untyped, s_sum untyped"),
    "summary and a count that it lacks": (
        [ExposedFamily("s", "summary", "", SUMMARY.samples[:1]), gauge("s_count", 1.0)],
        "s untyped, s_count untyped",
    ),
    "summary and a bucket": ([SUMMARY, gauge("s_bucket", 1.0)], "s summary, s_bucket gauge"),
    "histogram and its bucket": (
        [HISTOGRAM, gauge("h_bucket", 1.0)],
        "h_bucket untyped, h_count untyped, h_sum untyped",
    ),
    "histogram and a gauge of its name": (
        [HISTOGRAM, gauge("h", 7.0)],
        "h untyped, h_bucket untyped, h_count untyped, h_sum untyped",
    ),
    "histogram and a summary of its name": (
        [HISTOGRAM, ExposedFamily("h", "summary", "", (("h", (("quantile", "0.5"),), 1.0), ("h_sum", B, 1.0)))],
        "h untyped, h_bucket untyped, h_count untyped, h_sum untyped",
    ),
    "summary and a histogram of its count": (
        [SUMMARY, ExposedFamily("s_count", "histogram", "", (("s_count_bucket", (("le", "1.0"),), 1.0),))],
        "s untyped, s_count untyped, s_count_bucket untyped, s_sum untyped",
    ),
    "histogram and its total": ([HISTOGRAM, gauge("h_total", 1.0)], "h histogram, h_total gauge"),
    "histogram with a bound that is none": (
        [HISTOGRAM, ExposedFamily("h", "histogram", "", (("h_bucket", (*B, ("le", "any")), 1.0),))],
        "h_bucket untyped, h_count untyped, h_sum untyped",
    ),
    "sum with a bound": (
        [ExposedFamily("h", "histogram", "", (("h_bucket", (("le", "1"),), 1.0), ("h_sum", (("le", "1"),), 1.0)))],
        "h_bucket untyped, h_sum untyped",
    ),
    "bucket below zero": (
        [ExposedFamily("h", "histogram", "", (("h_bucket", (("le", "1"),), -1.0), ("h_sum", (), -1.0)))],
        "h_bucket untyped, h_sum untyped",
    ),
    "bound that is not a number": (
        [ExposedFamily("s", "summary", "", (("s", (("quantile", "NaN"),), 1.0), ("s_sum", (), -1.0)))],
        "s untyped, s_sum untyped",
    ),
    "quantile without a bound": ([ExposedFamily("s", "summary", "", (("s", (("quantile", ""),), 1.0),))], "s untyped"),
    "counter of OpenMetrics": ([COUNTER], "x_created gauge, x_total counter"),
    "counter of OpenMetrics and of text": (
        [COUNTER, gauge("x_total", 2.0, B, "counter"), gauge("x_created", 2.0, B)],
        "x_created gauge, x_total counter",
    ),
    "counter of OpenMetrics and a gauge": (
        [COUNTER, gauge("x_total", 2.0, B), gauge("x", 1.0)],
        "x gauge, x_created gauge, x_total untyped",
    ),
    "members of OpenMetrics": (
        [
            of_openmetrics("g", "gaugehistogram", "_bucket", bound=(("le", "1.0"),)),
            of_openmetrics("g", "gaugehistogram", "_gcount", "_gsum"),
            of_openmetrics("i", "info", "_info"),
            of_openmetrics("s", "summary", "_count", "_created"),
        ],
        "g histogram, g_gcount gauge, g_gsum gauge, i_info gauge, s summary, s_created gauge",
    ),
}


@pytest.mark.parametrize(("families", "shown"), OVERLAPS.values(), ids=OVERLAPS)
def test_families_of_groups_that_overlap_are_read_back(families: list[ExposedFamily], shown: str) -> None:
    """Groups whose families share a sample name, which is no reason to refuse a push, are all shown, as untyped."""
    parsed = read(families)
    assert ", ".join(f"{family.name} {family.type}" for family in parsed.values()) == shown
    assert sorted(row for family in parsed.values() for row in rows(family)) == sorted(first_rows(families))


SUFFIXES = ("", "_bucket", "_count", "_sum", "_total", "_created", "_info", "_gcount", "_gsum")
OVERLAPPING = st.lists(
    st.builds(
        lambda name, kind, members: ExposedFamily(
            name, kind, "", tuple((name + suffix, tuple(pairs.items()), value) for suffix, pairs, value in members)
        ),
        st.sampled_from(["x", "x_count", "x_sum", "x_bucket", "x_total", "x_count_sum", "x.y", 'x"\n']),
        st.sampled_from(TYPES),
        st.lists(
            st.tuples(
                st.sampled_from(SUFFIXES),
                st.fixed_dictionaries(
                    {},
                    optional={
                        "le": st.sampled_from(["1", "1.0", "+Inf", "NaN", "any", ""]),
                        "quantile": st.sampled_from(["0.5", "nan", "any", ""]),
                        "a.b": st.sampled_from(["", "c"]),
                    },
                ),
                VALUES,
            ),
            max_size=4,
        ),
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=300)
@given(OVERLAPPING)
def test_whatever_overlaps_is_read_back(families: list[ExposedFamily]) -> None:
    """Of families of any names and types, with any bounds and values, no series is lost, altered or doubled."""
    found = [row for family in read(families, utf8_names=True).values() for row in rows(family)]
    assert sorted(found) == sorted(first_rows(families))


TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text"
PUSHED: list[tuple[str, str]] = [
    (TEXT, "x 1\nx_count 2\nx_total 3\n"),
    (TEXT, "# TYPE x_total counter\nx_total 3\n# TYPE x_created gauge\nx_created 4\n"),
    (TEXT, '# TYPE x summary\nx{quantile="0.5"} 1\nx_sum 2\nx_count 3\n'),
    (TEXT, '# TYPE x histogram\nx_bucket{le="1"} 1\n'),
    (TEXT, '# TYPE x histogram\nx_bucket{le="1"} 1\nx_bucket{le="+Inf"} 2\nx_sum 3\nx_count 2\n'),
    (TEXT, '# TYPE x_count summary\nx_count{quantile="0.5"} 1\nx_count_sum 2\n'),
    (TEXT, '{"x.y",instance="i","a.b"="c",cluster="eu1"} 1\nx{instance="i"} 5\n'),
    (OPENMETRICS, "# TYPE x counter\nx_total 1\nx_created 2\n# EOF\n"),
    (OPENMETRICS, '# TYPE x histogram\nx_bucket{le="+Inf"} 1\nx_count 1\nx_sum 2\nx_created 3\n# EOF\n'),
    (OPENMETRICS, '# TYPE x gaugehistogram\nx_bucket{le="+Inf"} 1\nx_gcount 1\nx_gsum 2\n# EOF\n'),
    (OPENMETRICS, '# TYPE x stateset\nx{x="on"} 1\n# TYPE y info\ny_info{a="b"} 1\n# EOF\n'),
    (OPENMETRICS, '# TYPE x summary\nx{quantile="0.5"} 1\nx_count 1\nx_created 3\n# EOF\n'),
]
GROUPINGS = st.fixed_dictionaries(
    {"job": st.just("j")},
    optional={
        "instance": st.sampled_from(["", "i"]),
        "cluster": st.sampled_from(["", "eu1", "eu2"]),
        "le": st.sampled_from(["", "1", "any"]),
        "quantile": st.sampled_from(["", "0.5", "any"]),
    },
).map(lambda pairs: tuple(sorted(pairs.items())))


@settings(deadline=None)
@given(
    st.sampled_from([{}, {"cluster": "eu1"}, {"cluster": "eu1", "instance": "agent"}]),
    st.lists(st.tuples(GROUPINGS, st.sampled_from(PUSHED)), max_size=5),
)
@example({"cluster": "eu1"}, [((("cluster", ""), ("job", "j")), PUSHED[0])])
@example({}, [((("job", "j"), ("le", "any")), PUSHED[3])])
def test_whatever_was_accepted_is_shown(external: dict[str, str], pushes: list[tuple[Labels, tuple[str, str]]]) -> None:
    """Whatever pushes went through, /metrics has just the series that are delivered, and the JSON has each family."""
    groups = Groups(external)
    for grouping, (content_type, body) in pushes:
        families = parse_body(body.encode(), content_type, utf8_names=True)
        group = groups.get(key_of(grouping))
        try:
            content = flatten(families, grouping, FlattenOptions(external, utf8_names=True), 1)
            check_foreign(group, content, groups, {})
        except BadPushError:
            continue
        groups.publish([store(group, content, 1, replace_all=True).group])
    live = list(groups.live())
    shown = [
        series(sample.name, sample.labels)
        for family in read(
            [each for group in live for each in group_families(group, external)], utf8_names=True
        ).values()
        for sample in family.samples
    ]
    heads = {head for group in live for part in group.parts for head in part.shape.heads}
    heads.update(head for group in live for head in (group.id.gauge_heads[0], group.id.gauge_heads[1]))
    assert len(shown) == len(set(shown))
    assert {frozenset({**external, **dict(pairs), "__name__": name}.items()) for name, pairs in shown} == {
        frozenset(labels_of(head)) for head in heads
    }
    for group, data in zip(live, json.loads(json.dumps(groups_json(live, external))), strict=True):
        names = {name for part in group.parts for name in part.shape.names}
        assert data.keys() >= {"labels", "last_push_successful", *names}


@pytest.mark.real
@needs("promtool")
def test_promtool_reads_the_page() -> None:
    """Prometheus' own parser takes a page of all that overlaps and all that is odd; it only has advice on names."""
    odd = gauge("odd", math.nan, (("b", 'c\\d"e\nf\r{}'), ("c", "")), text='\\one\n"two" ')
    families = [odd, *(family for overlap, _ in OVERLAPS.values() for family in overlap)]
    single = [
        ExposedFamily(
            f"{chr(97 + at)}_{family.name}",
            family.type,
            "Text.",
            tuple((f"{chr(97 + at)}_{name}", pairs, value) for name, pairs, value in family.samples),
        )
        for at, (overlap, _) in enumerate(OVERLAPS.values())
        for family in overlap
    ]
    page = write_text(families + single)
    check = subprocess.run(["promtool", "check", "metrics"], input=page.encode(), capture_output=True, check=False)
    assert check.returncode in {0, 3}, check.stderr.decode()
    assert b"error while linting" not in check.stderr


@given(TEXTS)
def test_escaped_texts_stay_on_their_line(text: str) -> None:
    """HELP texts and label values never break a line or a quoted string."""
    assert "\n" not in escape_help(text) + escape_value(text)
    assert escape_value(text).replace("\\\\", "").replace('\\"', "").count('"') == 0


def points(text: str, family: ExposedFamily) -> dict[str, Any]:
    shown = family_json(family, 1_700_000_000_250)
    assert list(shown) == ["time_stamp", "type", *(["help"] if text else []), "metrics"]
    assert shown["time_stamp"] == "2023-11-14T22:13:20.250000Z"
    assert shown.get("help", "") == text
    return shown


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("gauge", "GAUGE"),
        ("counter", "COUNTER"),
        ("untyped", "UNTYPED"),
        ("info", "GAUGE"),
        ("stateset", "GAUGE"),
    ],
)
@pytest.mark.parametrize("text", ["", "Björn's"])
def test_simple_families_have_pushgateways_shape(kind: str, shown: str, text: str) -> None:
    """Each series is an object of its labels and its value as Go spells it; an empty help is left out."""
    family = ExposedFamily(
        "x", kind, text, (("x", (("a", "b"), ("instance", "")), 1.5838723477166057e9), ("x", (), math.nan))
    )
    data = points(text, family)
    assert data["type"] == shown
    assert data["metrics"] == [
        {"labels": {"a": "b", "instance": ""}, "value": "1.5838723477166057e+09"},
        {"labels": {}, "value": "NaN"},
    ]


def test_summaries_have_pushgateways_shape() -> None:
    """Quantiles, count and sum of one label set are one object."""
    data = points("", SUMMARY)
    assert data["type"] == "SUMMARY"
    assert data["metrics"] == [{"labels": {"a": "b"}, "quantiles": {"0.5": "1"}, "count": "1e+06", "sum": "-2"}]


@pytest.mark.parametrize(("kind", "shown"), [("histogram", "HISTOGRAM"), ("gaugehistogram", "GAUGE_HISTOGRAM")])
def test_histograms_have_pushgateways_shape(kind: str, shown: str) -> None:
    """Buckets are keyed by their bound as Go spells it; label sets are told apart, in the order of the body."""
    samples = (("h_bucket", (("job", "b"), ("le", "1e+06")), 4.0), *HISTOGRAM.samples)
    data = points("Seconds.", ExposedFamily("h", kind, "Seconds.", samples))
    assert data["type"] == shown
    assert data["metrics"] == [
        {"labels": {"job": "b"}, "buckets": {"1e+06": "4"}, "count": "0", "sum": "0"},
        {"labels": {}, "buckets": {"1": "1", "+Inf": "2"}, "count": "2", "sum": "2.5"},
    ]


def test_times_are_rfc_3339_in_utc() -> None:
    """A group that was never pushed has the epoch, also at whole seconds with Z behind."""
    assert family_json(gauge("x", 1.0), 0)["time_stamp"] == "1970-01-01T00:00:00Z"


OPENMETRICS_EXTRAS: list[tuple[str, tuple[Row, ...], dict[str, Any]]] = [
    (
        "histogram",
        (("x_bucket", (("le", "+Inf"),), 2.0), ("x_count", (), 2.0), ("x_sum", (), 3.0), ("x_created", (), 9.0)),
        {"buckets": {"+Inf": "2"}, "count": "2", "sum": "3"},
    ),
    (
        "summary",
        (("x", (("quantile", "0.5"),), 2.0), ("x_count", (), 2.0), ("x_sum", (), 3.0), ("x_created", (), 9.0)),
        {"quantiles": {"0.5": "2"}, "count": "2", "sum": "3"},
    ),
    (
        "gaugehistogram",
        (("x_bucket", (("le", "+Inf"),), 2.0), ("x_gcount", (), 2.0), ("x_gsum", (), 3.0)),
        {"buckets": {"+Inf": "2"}, "count": "2", "sum": "3"},
    ),
    ("counter", (("x_total", (), 2.0), ("x_created", (), 9.0)), {"value": "2"}),
]


@pytest.mark.parametrize(
    ("kind", "samples", "expected"), OPENMETRICS_EXTRAS, ids=[row[0] for row in OPENMETRICS_EXTRAS]
)
def test_openmetrics_members_have_their_place(kind: str, samples: tuple[Row, ...], expected: dict[str, Any]) -> None:
    """A gauge histogram's sum and count are shown as such; a start time, which has no place, is left out."""
    data = family_json(ExposedFamily("x", kind, "", samples), 0)
    assert data["metrics"] == [{"labels": {}, **expected}]


@pytest.mark.parametrize(
    ("kind", "name", "bound", "points"),
    [
        pytest.param("histogram", "x_bucket", (("le", "any"),), {"buckets": {"any": "1"}}, id="le"),
        pytest.param("histogram", "x_bucket", (("le", "1_0"),), {"buckets": {"1_0": "1"}}, id="no number to Go"),
        pytest.param("gaugehistogram", "x_bucket", (("le", ""),), {"buckets": {"": "1"}}, id="empty le"),
        pytest.param("summary", "x", (("quantile", "any"),), {"quantiles": {"any": "1"}}, id="quantile"),
        pytest.param("summary", "x", (), {"quantiles": {"": "1"}}, id="no quantile"),
    ],
)
def test_a_bound_from_the_grouping_labels_is_shown(
    kind: str, name: str, bound: Labels, points: dict[str, dict[str, str]]
) -> None:
    """A group whose key has a label `le` or `quantile` does not take the whole answer down."""
    family = ExposedFamily("x", kind, "", ((name, bound, 1.0), ("x_count", bound, 2.0)))
    assert family_json(family, 0)["metrics"] == [{"labels": {}, **points, "count": "2", "sum": "0"}]
