from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.content import Content
from bridge.errors import BadPushError, TooLargeError
from bridge.exposition.formats import parse_body
from bridge.exposition.protobuf import parse_delimited
from bridge.exposition.text import parse_text
from bridge.flatten import FUTURE_LIMIT_MS, FlattenOptions, check_suffixes, flatten
from bridge.groups import Group, group_id, key_of, store
from bridge.model import Family, Labels, MetricType, Sample
from bridge.registry import Groups, check_foreign
from bridge.wire.head import labels_of
from tests.strategies import LEGACY_NAMES, TEXTS, TYPES, VALUES, WORDS, labels

NOW_MS = 1_700_000_000_000
JOB: Labels = (("job", "a"),)
PLAIN = FlattenOptions({})
REFUSED = "pushed metrics are invalid or inconsistent with existing metrics: "


def push(body: str, grouping: Labels = JOB, options: FlattenOptions = PLAIN) -> Content:
    families = parse_text(body.encode(), utf8_names=options.utf8_names)
    return flatten(families, grouping, options, NOW_MS)


def series(content: Content) -> list[dict[str, str]]:
    return [dict(labels_of(head)) for head in content.shape.heads]


def one_sample(name: str, pairs: Labels = (), kind: MetricType = "untyped") -> Family:
    return Family(name, kind, "", (Sample(name, pairs, 1.0),))


@pytest.mark.parametrize(
    ("body", "grouping", "external", "expected"),
    [
        pytest.param("x 1\n", JOB, {}, {"job": "a"}, id="grouping label is added"),
        pytest.param('x{job="b",c="d"} 1\n', JOB, {}, {"job": "a", "c": "d"}, id="grouping overwrites body"),
        pytest.param('x{c="d"} 1\n', (*JOB, ("c", "")), {}, {"job": "a"}, id="empty grouping label overwrites body"),
        pytest.param('x{c=""} 1\n', JOB, {}, {"job": "a"}, id="empty body label is dropped"),
        pytest.param("x 1\n", JOB, {"c": "d"}, {"job": "a", "c": "d"}, id="external label is added"),
        pytest.param('x{c="e"} 1\n', JOB, {"c": "d"}, {"job": "a", "c": "e"}, id="external never overwrites body"),
        pytest.param("x 1\n", JOB, {"job": "d"}, {"job": "a"}, id="external never overwrites grouping"),
        pytest.param('x{c=""} 1\n', JOB, {"c": "d"}, {"job": "a", "c": "d"}, id="external fills an empty body label"),
        pytest.param("x 1\n", JOB, {"c": ""}, {"job": "a"}, id="empty external label is dropped"),
    ],
)
def test_labels_of_three_sources_are_merged(
    body: str, grouping: Labels, external: dict[str, str], expected: dict[str, str]
) -> None:
    """Grouping labels win over the body's, these over the external ones; what is empty is left out."""
    assert series(push(body, grouping, FlattenOptions(external))) == [{"__name__": "x", **expected}]


SMALL_NAMES = st.sampled_from(["a", "B", "_c", "d"])


@given(labels(SMALL_NAMES), labels(SMALL_NAMES, WORDS), labels(SMALL_NAMES))
def test_any_labels_are_merged_by_rank_and_sorted(body: Labels, grouping: Labels, external: Labels) -> None:
    """Each label comes from the first of grouping, body and external that has it, in bytewise order of names."""
    content = flatten([one_sample("x", body)], grouping, FlattenOptions(dict(external)), NOW_MS)
    ranked = [dict(grouping), dict(body), dict(external)]
    expected = {"__name__": "x"}
    for name in ("a", "B", "_c", "d"):
        if found := [source[name] for source in ranked if source.get(name)]:
            expected[name] = found[0]
    assert labels_of(content.shape.heads[0]) == tuple(sorted(expected.items()))


@given(
    st.lists(
        st.tuples(LEGACY_NAMES, st.sampled_from(TYPES), TEXTS, st.lists(st.tuples(VALUES, st.none() | st.just(5)))),
        unique_by=lambda row: row[0],
        max_size=4,
    )
)
def test_values_and_timestamps_keep_the_order_of_the_body(
    rows: list[tuple[str, MetricType, str, list[tuple[float, int | None]]]],
) -> None:
    """Families cover the series one after the other, each with its own name, type, help, values and timestamps."""
    families = [
        Family(
            f"{name}_",
            kind,
            text,
            tuple(Sample(f"{name}_", (("at", f"_{at}"),), value, stamp) for at, (value, stamp) in enumerate(points)),
        )
        for name, kind, text, points in rows
    ]
    content = flatten(families, JOB, PLAIN, NOW_MS)
    samples = [sample for family in families for sample in family.samples]
    assert [family["__name__"] + family["at"] for family in series(content)] == [
        sample.name + dict(sample.labels)["at"] for sample in samples
    ]
    assert list(map(repr, content.values)) == [repr(sample.value) for sample in samples]
    stamps = tuple(sample.timestamp_ms for sample in samples)
    assert content.timestamps == (stamps if any(stamps) else None)
    shapes = content.shape.families
    assert [(shape.name, shape.type, shape.help) for shape in shapes] == [(f.name, f.type, f.help) for f in families]
    assert [shape.start for shape in shapes] == [0, *(shape.stop for shape in shapes)][: len(shapes)]
    assert [shape.stop - shape.start for shape in shapes] == [len(family.samples) for family in families]


@pytest.mark.parametrize(
    ("body", "grouping", "message"),
    [
        pytest.param(
            "x 1\ny 1\nx 2\n", JOB, 'x{job="a"} is in this push twice, in line 1 and in line 3', id="same line twice"
        ),
        pytest.param(
            'x{c="d",e="f"} 1\nx{e="f",c="d"} 2\n', JOB, "in line 1 and in line 2", id="labels in another order"
        ),
        pytest.param('x{c=""} 1\nx 2\n', JOB, "in line 1 and in line 2", id="empty label is no label"),
        pytest.param(
            'x{job="b"} 1\nx{job="c"} 2\n', JOB, "in line 1 and in line 2", id="told apart by a grouping label"
        ),
        pytest.param("x 1 5\nx 2 6\n", JOB, "in line 1 and in line 2", id="told apart by time"),
        pytest.param(
            '# TYPE x histogram\nx_bucket{le="1"} 1\nx_bucket{le="1.0"} 1\n',
            JOB,
            "in line 2 and in line 3",
            id="two spellings of one bucket",
        ),
    ],
)
def test_a_series_pushed_twice_is_refused(body: str, grouping: Labels, message: str) -> None:
    """Two samples of one series refuse the push, and the text names both lines."""
    with pytest.raises(BadPushError) as caught:
        push(body, grouping)
    assert caught.value.reason == "inconsistent"
    assert str(caught.value).startswith(REFUSED)
    assert message in str(caught.value)


def test_a_duplicate_without_lines_is_refused_without_them() -> None:
    """A body format that has no lines gives a text that names none."""
    twice = Family("x", "gauge", "", (Sample("x", (), 1.0), Sample("x", (), 2.0)))
    with pytest.raises(BadPushError) as caught:
        flatten([twice], JOB, PLAIN, NOW_MS)
    assert str(caught.value) == f'{REFUSED}x{{job="a"}} is in this push twice'


@pytest.mark.parametrize(
    ("name", "utf8_names", "accepted"),
    [
        ("a", False, True),
        ("_a", False, True),
        ("__a", False, False),
        ("__a", True, False),
        ("__", True, False),
        ("a.b", False, False),
        ("a.b", True, True),
        ("ü", False, False),
        ("ü", True, True),
        ("1", False, False),
        ("a:b", False, False),
        ("a\n", False, False),
        ("", False, False),
    ],
)
def test_label_names_are_checked(name: str, *, utf8_names: bool, accepted: bool) -> None:
    """Reserved names are always refused, names outside the legacy set unless they are enabled."""
    options = FlattenOptions({}, utf8_names=utf8_names)
    family = one_sample("x", ((name, "v"),))
    if accepted:
        assert series(flatten([family], JOB, options, NOW_MS)) == [{"__name__": "x", "job": "a", name: "v"}]
    else:
        with pytest.raises(BadPushError, match="improper label name") as caught:
            flatten([family], JOB, options, NOW_MS)
        assert repr(name) in str(caught.value)


def test_a_bad_label_name_is_named_with_its_line() -> None:
    """The sender learns which line has the reserved name."""
    with pytest.raises(BadPushError, match="x: improper label name '__a' in line 2"):
        push('y 1\nx{__a="b"} 1\n')


@pytest.mark.parametrize(
    "gauges",
    [
        pytest.param("push_time_seconds 1\n", id="one"),
        pytest.param("push_time_seconds 1\npush_failure_time_seconds 1\n", id="both"),
        pytest.param('push_time_seconds{c="d"} 1\npush_time_seconds{c="e"} 1\n', id="several series"),
        pytest.param("push_time_seconds 1 9\n", id="with a timestamp"),
        pytest.param('push_failure_time_seconds{__a="b"} 1\n', id="with a reserved label"),
    ],
)
def test_the_agents_own_gauges_are_left_out(gauges: str) -> None:
    """Pushed push-time gauges neither count nor refuse a push, whatever is wrong with them."""
    options = FlattenOptions({}, accept_timestamps=False, max_series=1)
    content = push(f"{gauges}x 2\n", JOB, options)
    assert series(content) == [{"__name__": "x", "job": "a"}]
    assert content.values == (2.0,)


@pytest.mark.parametrize(("count", "accepted"), [(0, True), (3, True), (4, False)], ids=str)
def test_the_number_of_series_is_limited(count: int, *, accepted: bool) -> None:
    """As many series as the limit are taken, one more refuses the push and names the setting."""
    body = "".join(f'x{{n="{at}"}} 1\n' for at in range(count))
    options = FlattenOptions({}, max_series=3)
    if accepted:
        assert len(push(body, JOB, options).values) == count
    else:
        with pytest.raises(TooLargeError, match=r"push has 4 series, more than push\.max_series_per_push=3") as caught:
            push(body, JOB, options)
        assert caught.value.reason == "too_many_series"


@pytest.mark.parametrize("suffix", ["_sum", "_count", "_bucket", "_total", "_created", ""])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("member_first", [False, True], ids=["family first", "member first"])
def test_names_of_members_collide(kind: MetricType, suffix: str, *, member_first: bool) -> None:
    """A family named like a member of a summary or histogram beside it refuses the push, in either order."""
    refused = {"summary": ("_sum", "_count"), "histogram": ("_sum", "_count", "_bucket")}
    refused["gaugehistogram"] = refused["histogram"]
    families = [one_sample("x", kind=kind), one_sample(f"x{suffix}" if suffix else "y")]
    if member_first:
        families.reverse()
    if suffix in refused.get(kind, ()):
        with pytest.raises(BadPushError, match=rf"'x{suffix}' collides with the {kind} 'x'") as caught:
            flatten(families, JOB, PLAIN, NOW_MS)
        assert caught.value.reason == "inconsistent"
        assert str(caught.value).startswith(REFUSED)
    else:
        assert len(flatten(families, JOB, PLAIN, NOW_MS).values) == 2


@pytest.mark.parametrize(
    ("kind", "label", "spelled"),
    [
        ("histogram", "le", "1.0"),
        ("gaugehistogram", "le", "1.0"),
        ("summary", "quantile", "1.0"),
        ("histogram", "quantile", "1"),
        ("summary", "le", "1"),
        ("gauge", "le", "1"),
        ("untyped", "quantile", "1"),
        ("counter", "le", "1"),
    ],
)
@pytest.mark.parametrize("canonical", [True, False], ids=["canonical", "as_pushed"])
def test_bucket_labels_are_spelled_as_configured(
    kind: MetricType, label: str, spelled: str, *, canonical: bool
) -> None:
    """Only the bound label of a histogram or summary takes Prometheus' form, and only if so configured."""
    options = FlattenOptions({}, canonical_bucket_labels=canonical)
    content = flatten([one_sample("x", ((label, "1"),), kind)], JOB, options, NOW_MS)
    assert series(content)[0][label] == (spelled if canonical else "1")


@pytest.mark.parametrize("stamp", [-(2**63), -1, 0, NOW_MS, NOW_MS + FUTURE_LIMIT_MS], ids=str)
def test_explicit_timestamps_are_kept(stamp: int) -> None:
    """Any time that is not more than ten minutes ahead is kept, beside samples that have none."""
    assert push(f"x 1 {stamp}\ny 2\n").timestamps == (stamp, None)


@pytest.mark.parametrize("stamp", [NOW_MS + FUTURE_LIMIT_MS + 1, 2**63 - 1], ids=str)
def test_timestamps_too_far_ahead_are_refused(stamp: int) -> None:
    """A time more than ten minutes ahead refuses the push, naming line, time and unit."""
    with pytest.raises(
        BadPushError, match=rf"x: timestamp {stamp} ms .* in line 2; want at most \d+ .milliseconds"
    ) as caught:
        push(f"y 1\nx 1 {stamp}\n")
    assert caught.value.reason == "future"


@pytest.mark.parametrize("stamp", [-1, 0, NOW_MS, 2**63 - 1], ids=str)
def test_timestamps_are_refused_if_configured(stamp: int) -> None:
    """With push.timestamps reject, any explicit time gives Pushgateway's answer with the line."""
    with pytest.raises(BadPushError, match="pushed metrics must not have timestamps") as caught:
        push(f"y 1\nx 1 {stamp}\n", JOB, FlattenOptions({}, accept_timestamps=False))
    assert caught.value.reason == "timestamps"
    assert str(caught.value).startswith(REFUSED)
    assert str(caught.value).endswith("in line 2")


def test_a_family_without_samples_is_kept() -> None:
    """A protobuf family without metrics is still there, so that POST can replace an older one by it."""
    content = flatten(parse_delimited(b"\x03\x0a\x01x", utf8_names=False), JOB, PLAIN, NOW_MS)
    assert (content.shape.names, content.values, content.timestamps) == (frozenset({"x"}), (), None)


OPENMETRICS = "application/openmetrics-text"
NO_INSTANCE: Labels = (("job", "a"), ("instance", ""))
INSTANCE: Labels = (("job", "a"), ("instance", "x"))
TWICE: dict[str, tuple[dict[str, str], list[tuple[Labels, str, str]]]] = {
    "counter in OpenMetrics and in text": (
        {},
        [(JOB, OPENMETRICS, "# TYPE x counter\nx_total 1\n# EOF\n"), (JOB, "", "x_total 2\n")],
    ),
    "start time in OpenMetrics and in text": (
        {},
        [(JOB, OPENMETRICS, "# TYPE x summary\nx_count 1\nx_created 1\n# EOF\n"), (JOB, "", "x_created 2\n")],
    ),
    "gauges of keys that differ in an empty label": ({}, [(JOB, "", ""), (NO_INSTANCE, "", "")]),
    "external label in place of an empty grouping label": (
        {"instance": "x"},
        [(NO_INSTANCE, "", "x 1\n"), (INSTANCE, "", "x 2\n")],
    ),
}


@pytest.mark.parametrize(("external", "pushes"), TWICE.values(), ids=TWICE)
def test_no_series_is_held_twice(external: dict[str, str], pushes: list[tuple[Labels, str, str]]) -> None:
    """Whatever is pushed one after the other, no two series that are held have the same labels."""
    groups = Groups(external)
    for grouping, content_type, body in pushes:
        families = parse_body(body.encode(), content_type, utf8_names=False)
        with suppress(BadPushError):
            content = flatten(families, grouping, FlattenOptions(external), NOW_MS)
            group = groups.get(key_of(grouping))
            after = store(group, content, NOW_MS, replace_all=False).group
            check_suffixes({family.name: family.type for part in after.parts for family in part.shape.families})
            check_foreign(group, content, groups, {})
            groups.publish([after])
    heads = [group.id.gauge_heads[0] for group in groups.live()]
    heads += [head for group in groups.live() for part in group.parts for head in part.shape.heads]
    assert len(heads) == len(set(heads))


@pytest.mark.parametrize(
    ("grouping", "external", "expected"),
    [
        (JOB, {}, {"job": "a"}),
        (NO_INSTANCE, {}, {"job": "a"}),
        (JOB, {"cluster": "e"}, {"job": "a", "cluster": "e"}),
        (JOB, {"job": "e", "cluster": ""}, {"job": "a"}),
    ],
)
def test_push_time_gauges_have_the_groups_labels(
    grouping: Labels, external: dict[str, str], expected: dict[str, str]
) -> None:
    """The gauges carry grouping and external labels, the former first, and none that is empty."""
    identity = group_id(key_of(grouping), external)
    assert identity.labels == tuple(sorted(grouping))
    assert dict(labels_of(identity.gauge_heads[0])) == {"__name__": "push_time_seconds", **expected}
    assert dict(labels_of(identity.gauge_heads[1])) == {"__name__": "push_failure_time_seconds", **expected}


def test_series_and_gauges_of_a_group_agree_on_external_labels() -> None:
    """An empty grouping label gives way to an external one, or not, in all series of the group alike."""
    external = {"instance": "x"}
    group = Group(group_id(key_of(NO_INSTANCE), external))
    (pushed,) = series(push("y 1\n", NO_INSTANCE, FlattenOptions(external)))
    assert pushed.get("instance") == dict(labels_of(group.id.gauge_heads[0])).get("instance")
