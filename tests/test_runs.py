"""What a push tells of a run, how later pushes change that, and how a run stands as time goes on."""

from dataclasses import replace
from math import nan

import pytest

from bridge.exposition.text import parse_text
from bridge.flatten import FlattenOptions, flatten
from bridge.groups import Group, group_id, key_of, store
from bridge.journal.rows import UNKNOWN, RunRow
from bridge.runs import FUTURE_LIMIT_MS, METRIC_NAMES, newer, read_run, state_of
from bridge.wrapper.report import METRICS, End, Run, end_report, metrics_report, start_report
from tests.journal.test_committer import NOW_MS

JOB = (("job", "j"),)
KEY = key_of(JOB)
NOW_S = NOW_MS / 1000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
STARTED = RunRow(KEY, NOW_MS - 1000)
ENDED = replace(STARTED, end_ms=NOW_MS, success=True)


def read(body: str, known: RunRow | None = None, success_metric: str = "") -> RunRow | None:
    """Read the run of a body that is pushed now."""
    content = flatten(parse_text(body.encode()), JOB, FlattenOptions({}), NOW_MS)
    group: Group = store(Group(group_id(KEY, {})), content, NOW_MS, replace_all=False).group
    return read_run(content, group, known, success_metric=success_metric, max_runtime_ms=DAY_MS)


def said(**values: float) -> str:
    return "".join(f"pushbridge_run_{name} {value!r}\n" for name, value in values.items())


def run(**values: int | bool) -> RunRow:
    return replace(STARTED, **values)  # type: ignore[arg-type]


START = {"start_time_seconds": NOW_S - 1}
REPORTS = {
    "nothing": ("a 1\n", None),
    "start": (said(**START), STARTED),
    "promise": (
        said(**START, expected_interval_seconds=3600, grace_seconds=60),
        run(every_ms=HOUR_MS, grace_ms=60_000),
    ),
    "end": (
        said(
            **START, end_time_seconds=NOW_S, duration_seconds=0.75, exit_code=3, success=0, max_rss_bytes=4096
        ),
        run(end_ms=NOW_MS, success=False, exit_code=3, duration_ms=750, max_rss_bytes=4096),
    ),
    "end alone": (said(end_time_seconds=NOW_S, exit_code=0), None),
    "end and nothing else": (said(**START, end_time_seconds=NOW_S), run(end_ms=NOW_MS, success=True)),
    "exit code": (said(**START, exit_code=0), run(end_ms=NOW_MS, success=True, exit_code=0)),
    "exit code against success": (
        said(**START, exit_code=0, success=0), run(end_ms=NOW_MS, success=False, exit_code=0)
    ),
    "duration": (
        said(**START, duration_seconds=0.5), run(end_ms=NOW_MS - 500, success=True, duration_ms=500)
    ),
    "end before start": (said(**START, end_time_seconds=1), run(end_ms=NOW_MS - 1000, success=True)),
    "end in the far future": (
        said(**START, end_time_seconds=1e12), run(end_ms=NOW_MS + FUTURE_LIMIT_MS, success=True)
    ),
    "nonsense for numbers": (
        said(**START, end_time_seconds=NOW_S, exit_code=-1, duration_seconds=1e300, max_rss_bytes=nan),
        run(end_ms=NOW_MS, success=False),
    ),
    "start in the future": (said(start_time_seconds=NOW_S + 601), None),
    "clock a little ahead": (said(start_time_seconds=NOW_S + 599), RunRow(KEY, NOW_MS + 599_000)),
    "no start": ("pushbridge_run_start_time_seconds NaN\n", None),
    "start of nothing": (said(start_time_seconds=0), None),
    "two starts": ('pushbridge_run_start_time_seconds{a="1"} 1\npushbridge_run_start_time_seconds{a="2"} 2\n', None),
    "metrics of the job beside": ("a 1\n" + said(**START) + "b 2\n", STARTED),
}  # fmt: skip


@pytest.mark.parametrize(("body", "wanted"), REPORTS.values(), ids=REPORTS)
def test_a_push_tells_of_a_run(body: str, wanted: RunRow | None) -> None:
    """Start and end are read as they are said, and what makes no sense is left out."""
    assert read(body) == wanted


def test_the_reports_of_exec_are_read() -> None:
    """What exec pushes at start and end comes back whole, and every metric of it is known."""
    assert METRICS.keys() == METRIC_NAMES
    told = Run(JOB, "id", NOW_MS - 1000, every_s=3600, grace_s=60)
    promised = run(every_ms=HOUR_MS, grace_ms=60_000)
    assert read(start_report(told).body.decode()) == promised
    end = End(NOW_MS, 0.999, 0, 5000)
    assert read(end_report(told, end).body.decode()) == replace(
        promised, end_ms=NOW_MS, success=True, exit_code=0, duration_ms=999, max_rss_bytes=5000
    )
    assert read(metrics_report(told, b"a 1\n", NOW_MS).body.decode()) is None


PUSHED = RunRow(KEY, NOW_MS, NOW_MS, success=True)
PUSHES = {
    "success": ("ok 1\n", None, PUSHED),
    "failure": ("ok 0\n", None, replace(PUSHED, success=False)),
    "any value but 0": ("ok -0.5\n", None, PUSHED),
    "one of several failed": ('ok{step="a"} 1\nok{step="b"} 0\n', None, replace(PUSHED, success=False)),
    "another metric": ("okay 1\n", None, None),
    "type without samples": ("# TYPE ok gauge\n", None, None),
    "after a run that ended": ("ok 1\n", ENDED, PUSHED),
    "within a run that exec reports": ("ok 1\n", STARTED, None),
    "after a run that was lost": ("ok 1\n", RunRow(KEY, NOW_MS - DAY_MS - 1), PUSHED),
    "reported as a run too": ("ok 1\n" + said(**START), None, STARTED),
}


@pytest.mark.parametrize(("body", "known", "wanted"), PUSHES.values(), ids=PUSHES)
def test_a_push_with_the_success_metric_is_a_run(body: str, known: RunRow | None, wanted: RunRow | None) -> None:
    """Jobs that only push have a run for each push, but not while exec reports one."""
    assert read(body, known, success_metric="ok") == wanted


LATER, EARLIER = RunRow(KEY, NOW_MS + 1), RunRow(KEY, NOW_MS - 2000)
NEWEST = {
    "first": (None, STARTED, STARTED),
    "end": (STARTED, ENDED, ENDED),
    "end of one that was never seen": (None, ENDED, ENDED),
    "start after its end": (ENDED, STARTED, ENDED),
    "start again": (STARTED, STARTED, STARTED),
    "end told anew": (ENDED, replace(ENDED, exit_code=0), replace(ENDED, exit_code=0)),
    "next": (ENDED, LATER, LATER),
    "next while it runs": (STARTED, LATER, LATER),
    "start of an older one": (STARTED, EARLIER, STARTED),
    "end of an older one": (STARTED, replace(EARLIER, end_ms=NOW_MS), STARTED),
    "end of the group": (STARTED, KEY, None),
}


@pytest.mark.parametrize(("known", "note", "wanted"), NEWEST.values(), ids=NEWEST)
def test_the_newest_run(known: RunRow | None, note: RunRow | bytes, wanted: RunRow | None) -> None:
    """A group's newest run follows the starts, whatever order the events come in."""
    assert newer(known, note) == wanted


STATES = {
    "succeeded": (ENDED, True, NOW_MS, "succeeded"),
    "succeeded long ago": (ENDED, False, NOW_MS + 99 * DAY_MS, "succeeded"),
    "failed": (replace(ENDED, success=False), True, NOW_MS, "failed"),
    "running": (STARTED, True, NOW_MS, "running"),
    "running up to the limit": (STARTED, True, STARTED.start_ms + DAY_MS, "running"),
    "too long": (STARTED, True, STARTED.start_ms + DAY_MS + 1, "lost"),
    "another one began": (STARTED, False, NOW_MS, "lost"),
}


@pytest.mark.parametrize(("row", "is_newest", "now_ms", "state"), STATES.values(), ids=STATES)
def test_states(row: RunRow, is_newest: bool, now_ms: int, state: str) -> None:
    """A run without an end is lost once the next has begun or its time is over."""
    assert state_of(row, now_ms, DAY_MS, is_newest=is_newest) == state
    assert UNKNOWN not in {row.start_ms, row.end_ms}
