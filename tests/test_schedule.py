"""Who is expected when, who is overdue, and which series say so, by a clock that the tests set."""

import pytest

from bridge.config.file import load
from bridge.groups import Group, group_id, key_of
from bridge.heartbeat import Heartbeat, head_of
from bridge.journal.rows import RunRow
from bridge.model import Labels
from bridge.rules import Rules
from bridge.schedule import OVERDUE, Schedule
from bridge.wire.head import labels_of
from bridge.wire.remote_write import unpack_doubles

T_MS = 1_700_000_000_000
"""When whatever is told of began."""
HOUR_MS = 3_600_000
JOB: Labels = (("job", "j"),)
KEY = key_of(JOB)
EVERY = "rules: [{match: {job: j}, expect_every: 1h, grace: 10m}, {match: {job: '.*'}, expect_every: 2h}]"
PROMISE = RunRow(KEY, T_MS, every_ms=6 * HOUR_MS, grace_ms=HOUR_MS)
NO_PROMISE = RunRow(KEY, T_MS, T_MS + 1)


def rules(text: str) -> Rules:
    return Rules(load(text, "c.yml").rules)


def group(
    labels: Labels = JOB, *, source: str = "", live: bool = True, push_ms: int = T_MS, last_ms: int = T_MS
) -> Group:
    return Group(group_id(key_of(labels, source), {}), last_ms, push_ms, 0, live)


def hours(number: float) -> int:
    return round(number * HOUR_MS)


# rules, newest run, the group, the time after which it is overdue
DUE: dict[str, tuple[str, RunRow | None, Group, int | None]] = {
    "nobody expects it": ("", None, group(), None),
    "run without a promise": ("", NO_PROMISE, group(), None),
    "promise of the run": ("", PROMISE, group(), T_MS + hours(7)),
    "promise stands over the rule": (EVERY, PROMISE, group(), T_MS + hours(7)),
    "rule for pushes": (EVERY, None, group(), T_MS + HOUR_MS + 600_000),
    "rule for runs": (EVERY, NO_PROMISE, group(push_ms=T_MS + hours(3)), T_MS + HOUR_MS + 600_000),
    "first rule that matches": (EVERY, None, group((("job", "k"),)), T_MS + hours(2)),
    "no grace": ("rules: [{match: {}, expect_every: 1h}]", None, group(), T_MS + HOUR_MS),
    "a refused push is none": (EVERY, None, group(last_ms=T_MS + hours(9)), T_MS + HOUR_MS + 600_000),
    "never a push that was taken": (EVERY, None, group(push_ms=0), None),
    "ended": (EVERY, PROMISE, group(live=False), None),
}  # fmt: skip


@pytest.mark.parametrize(("text", "run", "of", "due_ms"), DUE.values(), ids=DUE)
def test_a_group_is_overdue_after_interval_and_grace(
    text: str, run: RunRow | None, of: Group, due_ms: int | None
) -> None:
    """It counts from the newest run's start, or without runs from the newest good push, and to the millisecond."""
    schedule = Schedule(rules(text), {}, [run] if run else [])
    expected = list(schedule.all_expected([of]))
    assert [one.due_ms for one in expected] == ([] if due_ms is None else [due_ms])
    for one in expected:
        assert (one.is_overdue(T_MS), one.is_overdue(one.due_ms), one.is_overdue(one.due_ms + 1)) == (
            False,
            False,
            True,
        )
        assert T_MS < one.expected_ms <= one.due_ms


def test_a_new_run_is_the_end_of_being_overdue() -> None:
    """What is on disk counts from then on: a start, not an end, moves the time."""
    schedule = Schedule(runs=[PROMISE])
    later = RunRow(KEY, T_MS + hours(8), every_ms=6 * HOUR_MS)
    for note, due_ms in ((RunRow(KEY, T_MS, T_MS + hours(2), every_ms=6 * HOUR_MS), T_MS + hours(6)),
                         (later, T_MS + hours(14))):  # fmt: skip
        schedule.publish([note])
        assert [one.due_ms for one in schedule.all_expected([group()])] == [due_ms]
    schedule.publish([KEY])
    assert list(schedule.all_expected([group()])) == []


def test_groups_of_one_job_from_two_sources_are_one_series() -> None:
    """A job that comes by push and by file is heard of when either comes."""
    groups = [group(), group(source="/d/a.prom", push_ms=T_MS + HOUR_MS), group(source="/d/b.prom")]
    expected = list(Schedule(rules(EVERY)).all_expected(groups))
    assert [one.group for one in expected] == [groups[1]]


def said(heartbeat: Heartbeat, at_ms: int) -> dict[frozenset[tuple[str, str]], float]:
    ((_, (heads, doubles)),) = heartbeat.points(at_ms)
    found = {frozenset(labels_of(head)): value for head, value in zip(heads, map(unpack_doubles, doubles), strict=True)}
    assert len(found) == len(heads)
    return {labels: value for labels, (value,) in found.items() if dict(labels)["__name__"] == OVERDUE}


def test_the_series_has_the_labels_of_the_group() -> None:
    """A group without an instance gets no instance, external labels it gets, and an empty label is none."""
    external = {"cluster": "eu1", "site": "a"}
    bare, odd = group(), group((("instance", ""), ("job", "k"), ("site", "b")))
    schedule = Schedule(rules(EVERY), external)
    heartbeat = Heartbeat("host:9091", external, T_MS)
    heartbeat.add(lambda at_ms: schedule.facts([bare, odd], at_ms), about_agent=False)
    heartbeat.add(lambda _: [("own", (("job", "mine"),), 1.0)])
    one = frozenset({("__name__", OVERDUE), ("job", "j"), ("cluster", "eu1"), ("site", "a")})
    other = frozenset({("__name__", OVERDUE), ("job", "k"), ("cluster", "eu1"), ("site", "b")})
    assert said(heartbeat, T_MS + HOUR_MS) == {one: 0.0, other: 0.0}
    assert said(heartbeat, T_MS + hours(1.5)) == {one: 1.0, other: 0.0}
    assert said(heartbeat, T_MS + hours(2.5)) == {one: 1.0, other: 1.0}
    ((_, (heads, _)),) = heartbeat.points(T_MS + 1)
    own = dict(next(labels for labels in map(labels_of, heads) if ("__name__", "own") in labels))
    assert own == {"__name__": "own", "job": "mine", "instance": "host:9091", **external}


def test_a_group_that_changed_since_the_point_of_the_grid_is_passed_over() -> None:
    """Its series may have ended later than that point, and nothing may follow the marker with an older time."""
    schedule = Schedule(rules(EVERY))
    assert list(schedule.facts([group(last_ms=T_MS + 5)], T_MS + 5)) == []
    assert len(list(schedule.facts([group(last_ms=T_MS + 5)], T_MS + 6))) == 1


ENDINGS: dict[str, tuple[Group, RunRow | None, bool]] = {
    "deleted": (group(live=False), None, True),
    "run without a promise": (group(), NO_PROMISE, True),
    "next run": (group(), RunRow(KEY, T_MS + 1, every_ms=1000), False),
    "push": (group(), PROMISE, False),
}


@pytest.mark.parametrize(("after", "newest", "ends"), ENDINGS.values(), ids=ENDINGS)
def test_the_series_ends_when_nothing_is_expected_any_more(after: Group, newest: RunRow | None, ends: bool) -> None:
    """The change that ends the expectation ends the series, under the name by which it was sent."""
    schedule = Schedule(None, {"cluster": "eu1"}, [PROMISE])
    heads = schedule.ended(group(), PROMISE, after, newest)
    assert heads == ((head_of(OVERDUE, JOB, {"cluster": "eu1"}),) if ends else ())


def test_a_group_that_nobody_expected_ends_without_a_marker() -> None:
    """There was no series, so there is nothing to end."""
    schedule = Schedule(rules(EVERY))
    assert schedule.ended(group(push_ms=0), None, group(live=False), None) == ()
    assert Schedule().ended(group(), NO_PROMISE, group(live=False), None) == ()
