"""Runs: what a push tells of an execution of its job, and how that stands (design.md section 8).

Owns the reading of the metrics that `exec` pushes (`bridge.wrapper.report`) and the states of a run. What is
expected of a job is `bridge.schedule`. Pure: the clock is an argument.
"""

from math import isfinite
from typing import Final, Literal

from bridge.content import Content
from bridge.groups import RUN_PREFIX, Group
from bridge.journal.rows import UNKNOWN, RunNote, RunRow

State = Literal["running", "succeeded", "failed", "lost"]
METRIC_NAMES: Final = frozenset(
    f"{RUN_PREFIX}{name}"
    for name in """start_time_seconds end_time_seconds duration_seconds exit_code success max_rss_bytes
    expected_interval_seconds grace_seconds""".split()
)
"""All that is read of a run."""
RUN_START: Final = f"{RUN_PREFIX}start_time_seconds"
"""What every report of a run has."""
_ENDINGS: Final = tuple(
    f"{RUN_PREFIX}{name}" for name in ("end_time_seconds", "duration_seconds", "exit_code", "success")
)
"""Each of these is known only after the end."""
_SECOND_MS: Final = 1000
_LARGEST: Final = 1 << 53
FUTURE_LIMIT_MS: Final = 10 * 60 * 1000
"""What is further ahead is a broken clock's: such a start would stay the newest run for as long."""


def read_run(
    content: Content, group: Group, known: RunRow | None, *, success_metric: str = "", max_runtime_ms: int
) -> RunRow | None:
    """The run that a push tells of, None when it tells of none.

    `group` is as the push left it, `known` its newest run so far. A push with `success_metric` is a run of its own,
    unless the group has a run that still goes on: then it is a part of that one.
    """
    names = content.shape.names
    if RUN_START in names:
        return _reported(content, group)
    if success_metric in names and not (known is not None and _goes_on(known, group.last_ms, max_runtime_ms)):
        return _pushed(content, group, success_metric)
    return None


def newer(known: RunRow | None, note: RunNote) -> RunRow | None:
    """A group's newest run after what is new: the end of an older run, or a start that comes late, changes nothing."""
    if isinstance(note, bytes):
        return None
    if known is None or note.start_ms > known.start_ms or (note.start_ms == known.start_ms and note.end_ms):
        return note
    return known


def state_of(run: RunRow, now_ms: int, max_runtime_ms: int, *, is_newest: bool) -> State:
    """How a run stands: one without an end is lost when another began, or when it had its time."""
    if run.end_ms:
        return "succeeded" if run.success else "failed"
    return "running" if is_newest and _goes_on(run, now_ms, max_runtime_ms) else "lost"


def _goes_on(run: RunRow, now_ms: int, max_runtime_ms: int) -> bool:
    return not run.end_ms and now_ms - run.start_ms <= max_runtime_ms


def _reported(content: Content, group: Group) -> RunRow | None:
    said = _said(content)
    start_ms = _whole(said.get(RUN_START), _SECOND_MS)
    if not 0 < start_ms <= group.last_ms + FUTURE_LIMIT_MS:
        return None
    every_ms = max(0, _whole(said.get(f"{RUN_PREFIX}expected_interval_seconds"), _SECOND_MS))
    grace_ms = max(0, _whole(said.get(f"{RUN_PREFIX}grace_seconds"), _SECOND_MS))
    if not any(name in said for name in _ENDINGS):
        return RunRow(group.id.key, start_ms, every_ms=every_ms, grace_ms=grace_ms)
    end_s, duration_s, exit_code, success = map(said.get, _ENDINGS)
    duration_ms = _whole(duration_s, _SECOND_MS)
    end_ms = _whole(end_s, _SECOND_MS)
    if end_ms == UNKNOWN:
        end_ms = group.push_ms if duration_ms == UNKNOWN else start_ms + duration_ms
    verdict = exit_code == 0 if exit_code is not None else True
    return RunRow(
        group.id.key,
        start_ms,
        min(max(start_ms, end_ms), group.last_ms + FUTURE_LIMIT_MS),
        verdict if success is None else success != 0,
        _whole(exit_code),
        duration_ms,
        _whole(said.get(f"{RUN_PREFIX}max_rss_bytes")),
        every_ms,
        grace_ms,
    )


def _said(content: Content) -> dict[str, float]:
    """Values of the run's families; one with several series is not the run's."""
    values = content.values
    return {
        family.name: values[family.start]
        for family in content.shape.families
        if family.name in METRIC_NAMES and family.stop - family.start == 1
    }


def _whole(value: float | None, factor: int = 1) -> int:
    if value is None or not isfinite(value) or not 0 <= value * factor < _LARGEST:
        return UNKNOWN
    return round(value * factor)


def _pushed(content: Content, group: Group, success_metric: str) -> RunRow | None:
    values = content.values
    (family,) = (family for family in content.shape.families if family.name == success_metric)
    if not group.push_ms or family.start == family.stop:
        return None
    success = all(value != 0 for value in values[family.start : family.stop])
    return RunRow(group.id.key, group.push_ms, group.push_ms, success)
