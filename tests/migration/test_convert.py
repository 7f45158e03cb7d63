"""Groups of a Pushgateway's JSON as pushes: what is carried over, what is told, which groups are left alone."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exposition.formats import parse_body
from bridge.ingress.path import parse_grouping_path
from bridge.migration.convert import PushTimes, convert_group, grouping_labels, push_times, reason_to_leave

TIMES = {
    "push_time_seconds": "1.7955775799290175e+09",
    "push_failure_time_seconds": "1.79557757e+09",
}
SHOWN_TIMES = """# TYPE push_failure_time_seconds gauge
push_failure_time_seconds 1.79557757e+09
# TYPE push_time_seconds gauge
push_time_seconds 1.7955775799290175e+09
"""


def family(kind: str, *metrics: dict[str, Any], **more: str) -> dict[str, Any]:
    """One family as the Pushgateway writes it; its metrics get the labels that it puts on all."""
    shown = [{**metric, "labels": {"instance": "", "job": "j", **metric.get("labels", {})}} for metric in metrics]
    return {"time_stamp": "2026-11-25T03:32:59.9Z", "type": kind, "metrics": shown, **more}


def group(**families: Any) -> dict[str, Any]:
    """A group `job=j` with its push times."""
    times = {name: family("GAUGE", {"value": value}, help="Last.") for name, value in TIMES.items()}
    return {"labels": {"job": "j"}, "last_push_successful": True, **times, **families}


def lines(document: dict[str, Any]) -> list[str]:
    """What is pushed besides the times."""
    return [line for line in convert_group(document).body.decode().splitlines() if "push_" not in line]


CARRIED = {
    "counter": (
        family("COUNTER", {"value": "1e+300", "labels": {"a": "x y"}}, help="Two\nlines \\ and more."),
        ["# HELP x Two\\nlines \\\\ and more.", "# TYPE x counter", 'x{a="x y"} 1e+300'],
    ),
    "gauge": (
        family("GAUGE", {"value": "-0"}, {"value": "NaN", "labels": {"a": 'q"\\\n'}}),
        ["# TYPE x gauge", "x -0", 'x{a="q\\"\\\\\\n"} NaN'],
    ),
    "untyped": (
        family("UNTYPED", {"value": "-Inf", "labels": {"instance": "own"}}),
        ["# TYPE x untyped", 'x{instance="own"} -Inf'],
    ),
    "summary": (
        family("SUMMARY", {"quantiles": {"0.9": "NaN", "0.5": "2"}, "count": "3", "sum": "1e+09"}),
        ["# TYPE x summary", 'x{quantile="0.5"} 2', 'x{quantile="0.9"} NaN', "x_sum 1e+09", "x_count 3"],
    ),
    "summary without quantiles": (
        family("SUMMARY", {"quantiles": {}, "count": "3", "sum": "1.5"}),
        ["# TYPE x summary", "x_sum 1.5", "x_count 3"],
    ),
    "histogram": (
        family("HISTOGRAM", {"buckets": {"+Inf": "4", "0.5": "1", "10": "3", "2": "2"}, "count": "4", "sum": "9"}),
        [
            "# TYPE x histogram",
            'x_bucket{le="0.5"} 1',
            'x_bucket{le="2"} 2',
            'x_bucket{le="10"} 3',
            'x_bucket{le="+Inf"} 4',
            "x_sum 9",
            "x_count 4",
        ],
    ),
    "histogram without +Inf": (
        family("HISTOGRAM", {"buckets": {"1": "2"}, "count": "4", "sum": "9", "labels": {"a": "b"}}),
        [
            "# TYPE x histogram",
            'x_bucket{a="b",le="1"} 2',
            'x_bucket{a="b",le="+Inf"} 4',
            'x_sum{a="b"} 9',
            'x_count{a="b"} 4',
        ],
    ),
    "gauge histogram": (
        family("GAUGE_HISTOGRAM", {"buckets": {"+Inf": "4"}, "count": "4", "sum": "9"}, help="# TYPE x histogram"),
        [
            "# HELP x # TYPE x histogram",
            "# TYPE x gaugehistogram",
            'x_bucket{le="+Inf"} 4',
            "x_sum 9",
            "x_count 4",
        ],
    ),
    "empty label": (family("GAUGE", {"value": "1", "labels": {"a": ""}}), ["# TYPE x gauge", "x 1"]),
    "no metrics": (family("GAUGE"), []),
}


@pytest.mark.parametrize(("shown", "pushed"), CARRIED.values(), ids=CARRIED)
def test_a_family_is_carried_over(shown: dict[str, Any], pushed: list[str]) -> None:
    """Name, type, help, labels and values of a family are those of the push."""
    document = group(x=shown)
    assert lines(document) == pushed
    converted = convert_group(document)
    assert converted.left_out == ()
    assert converted.series == sum(not line.startswith("#") for line in pushed)
    parse_body(converted.body, "", utf8_names=False)


LEFT_OUT = {
    "native histogram": (
        family("HISTOGRAM", {"buckets": [[0, "1", "2", "3"]], "count": "3", "sum": "9", "labels": {"a": "b"}}),
        ['x: {a="b"}: a native histogram cannot be pushed as text'],
        [],
    ),
    "odd NaN": (
        family("GAUGE", {"value": "1.#QNAN"}, {"value": "1", "labels": {"a": "b"}}),
        ['x: {}: value: not a float: "1.#QNAN"'],
        ["# TYPE x gauge", 'x{a="b"} 1'],
    ),
    "timestamp": (
        family("GAUGE", {"value": "1", "timestamp_ms": "5"}),
        ["x: timestamp_ms"],
        ["# TYPE x gauge", "x 1"],
    ),
    "unknown type": (
        family("STATESET", {"value": "1"}),
        ["type STATESET of x, pushed as untyped"],
        ["# TYPE x untyped", "x 1"],
    ),
    "no value": (family("COUNTER", {}), ["x: {}: no value"], []),
    "bucket": (
        family("HISTOGRAM", {"buckets": {"one": "1"}, "count": "3", "sum": "9"}),
        ['x: {}: not a float: "one"'],
        [],
    ),
    "sum": (family("SUMMARY", {"quantiles": None, "count": "3"}), ["x: {}: no sum"], []),
    "no metric": ({"type": "GAUGE", "metrics": [5]}, ["x: got 5, want a metric"], []),
    "labels": (
        {"type": "GAUGE", "metrics": [{"value": "1", "labels": {"a": 5}}]},
        ["x: labels: got the value 5, want a string"],
        [],
    ),
}


@pytest.mark.parametrize(("shown", "told", "pushed"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_cannot_be_carried_over_is_told(shown: dict[str, Any], told: list[str], pushed: list[str]) -> None:
    """One metric that has no place in a push is named, and neither its neighbours nor the other families suffer."""
    document = group(x=shown, y=family("COUNTER", {"value": "7"}))
    assert lines(document) == [*pushed, "# TYPE y counter", "y 7"]
    assert list(convert_group(document).left_out) == told


def test_the_push_times_are_part_of_the_body() -> None:
    """Both times are pushed with all their digits, and do not count as series."""
    converted = convert_group(group())
    assert converted.body == SHOWN_TIMES.encode()
    assert converted.times == PushTimes(1795577579.9290175, 1795577570.0)
    assert converted.series == 0


@pytest.mark.parametrize("shown", [None, 5, {"metrics": [5]}, family("GAUGE", {"value": "NaN"}), family("GAUGE", {})])
def test_a_push_time_that_is_none_is_never(shown: object) -> None:
    """A group whose times cannot be read is one that was never pushed."""
    assert push_times({"labels": {"job": "j"}, "push_time_seconds": shown}) == PushTimes(0, 0)


@pytest.mark.parametrize(
    "labels",
    [
        {"job": "j", "a": "b", "instance": ""},
        {"job": "a/b", "metrics": "x", "type": "y", "zürich": "a b\n"},
    ],
)
def test_grouping_labels_are_kept(labels: dict[str, str]) -> None:
    """Every grouping label is in the key, job first, and in no series of the body."""
    document = {"labels": labels, "x": {"type": "GAUGE", "metrics": [{"value": "1", "labels": {**labels, "own": "z"}}]}}
    converted = convert_group(document)
    assert (converted.labels[0][0], dict(converted.labels)) == ("job", labels)
    assert parse_grouping_path(converted.path, utf8_names=True) == tuple(sorted(labels.items()))
    assert b'x{own="z"} 1' in converted.body


def test_a_family_called_labels_hides_nothing() -> None:
    """The Pushgateway shows such a family in place of the grouping labels; the push time still has them."""
    document = group(labels=family("GAUGE", {"value": "3"}))
    assert grouping_labels(document) == (("job", "j"),)
    assert lines(document) == ["# TYPE labels gauge", "labels 3"]


@pytest.mark.parametrize("labels", [None, "job", {}, {"instance": "i"}, {"job": ""}, {"job": 5}, {"job": "\ud800"}])
def test_a_group_without_a_job_is_refused(labels: object) -> None:
    """What has no grouping labels cannot be pushed, and says so."""
    with pytest.raises(ValueError, match=r"got|surrogates"):
        convert_group({"labels": labels})


@pytest.mark.parametrize(
    ("source", "held", "reason"),
    [
        ((100.0, 0), None, None),
        ((100.0, 0), (99.0, 0), None),
        ((100.0, 0), (99.0, 200.0), None),
        ((100.0, 0), (100.0, 0), "same"),
        ((100.0009, 0), (100.0, 0), "same"),
        ((100.0, 0), (101.0, 0), "newer"),
        ((100.0, 150.0), (101.0, 0), "newer"),
        ((100.0, 150.0), (100.0, 0), None),
        ((100.0, 0), (100.0, 150.0), "same"),
        ((0, 150.0), (0, 150.0), "same"),
        ((0, 150.0), (1.0, 0), "newer"),
    ],
)
def test_the_newer_push_wins(source: tuple[float, float], held: tuple[float, float] | None, reason: str | None) -> None:
    """A group goes over unless the agent has a push of it that is as new, to the millisecond."""
    said = reason_to_leave(PushTimes(*source), PushTimes(*held) if held else None)
    assert (said is None) == (reason is None)
    assert reason is None or reason in str(said)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "labels metrics type help value quantiles buckets count sum job push_time_seconds x".split()
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(["labels", "x", "push_time_seconds"]), JSON))
def test_any_json_is_a_group_or_a_value_error(document: dict[str, Any]) -> None:
    """Whatever another program answers, there is a push or the one documented error."""
    try:
        converted = convert_group(json.loads(json.dumps(document)))
    except ValueError:
        return
    assert converted.body
