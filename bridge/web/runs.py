"""/api/v1/runs: which job ran when and how it ended, and who is overdue (design.md section 8).

Owns the query and the JSON. What a run is comes from `bridge.runs`, what is expected from `bridge.schedule`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from bridge.errors import PushRefusedError
from bridge.groups import key_of, labels_of_key
from bridge.journal.committer import Committer
from bridge.journal.history import History
from bridge.journal.rows import UNKNOWN
from bridge.journal.run_table import KnownRun, RunQuestion
from bridge.moments import parse_moment_ms, time_text
from bridge.runs import state_of
from bridge.schedule import Expected
from bridge.web import responses

_PARAMETERS = ("job", "since", "limit")
_DEFAULT_LIMIT, _MOST = 100, 1000
_SECOND_MS = 1000


@dataclass(frozen=True, slots=True)
class _Question:
    job: str | None
    since_ms: int
    limit: int

    def wants(self, key: bytes) -> bool:
        """Whether a group is asked for."""
        return self.job is None or dict(labels_of_key(key)).get("job") == self.job


class RunList:
    """Answers about the runs of one journal."""

    def __init__(self, committer: Committer, history: History, now_ms: Callable[[], int]) -> None:
        """Read from these."""
        self._committer = committer
        self._history = history
        self._now_ms = now_ms

    async def answer(self, query: str) -> web.Response:
        """Answer GET /api/v1/runs: first the groups that are overdue now, then the runs, newest first."""
        now_ms = self._now_ms()
        try:
            question = _read(query, now_ms)
        except ValueError as error:
            return responses.api_error(400, "bad_data", str(error))
        schedule = self._committer.schedule
        overdue = [
            self._overdue(expected)
            for expected in schedule.all_expected(self._committer.groups.live())
            if expected.is_overdue(now_ms) and question.wants(expected.group.id.key)
        ]
        part = b"" if question.job is None else key_of((("job", question.job),))
        try:
            runs = self._history.runs(RunQuestion(question.since_ms, question.limit, part, question.wants))
        except PushRefusedError as error:
            return responses.api_refusal(error)
        return responses.api([*overdue, *(self._run(run, now_ms) for run in runs)][: question.limit])

    def _overdue(self, expected: Expected) -> dict[str, Any]:
        newest = self._committer.schedule.newest(expected.group.id.key)
        last_ms = newest.start_ms if newest is not None else expected.group.push_ms
        return {
            **_json(expected.group.id.key, "overdue"),
            "expected": time_text(expected.expected_ms),
            "last": time_text(last_ms),
        }

    def _run(self, known: KnownRun, now_ms: int) -> dict[str, Any]:
        run, labels = known.run, labels_of_key(known.run.group)
        max_runtime_ms = self._committer.schedule.rules.max_runtime_ms(labels)
        return {
            **_json(run.group, state_of(run, now_ms, max_runtime_ms, is_newest=known.is_newest)),
            "start": time_text(run.start_ms),
            "end": time_text(run.end_ms) if run.end_ms else None,
            "duration_seconds": None if run.duration_ms == UNKNOWN else run.duration_ms / _SECOND_MS,
            "exit_code": _known(run.exit_code),
            "max_rss_bytes": _known(run.max_rss_bytes),
        }


def _json(key: bytes, state: str) -> dict[str, Any]:
    """Every key of an entry, as it is when nothing is known."""
    labels = dict(labels_of_key(key))
    unknown = dict.fromkeys(("start", "end", "duration_seconds", "exit_code", "max_rss_bytes", "expected", "last"))
    return {"job": labels.get("job", ""), "labels": labels, "state": state, **unknown}


def _known(value: int) -> int | None:
    return None if value == UNKNOWN else value


def _read(query: str, now_ms: int) -> _Question:
    """Read the query; ValueError for what is not understood."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PARAMETERS or name in given:
            what = "twice" if name in given else "unknown"
            raise ValueError(f"parameter {name!r} is {what}: want each of {', '.join(_PARAMETERS)} at most once")
        given[name] = value
    limit = given.get("limit", str(_DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdigit() and 0 < int(limit) <= _MOST):
        raise ValueError(f"limit: got {limit!r}, want a number from 1 to {_MOST}")
    try:
        since_ms = parse_moment_ms(given["since"], now_ms) if "since" in given else 0
    except ValueError as error:
        raise ValueError(f"since: {error}") from error
    return _Question(given.get("job"), since_ms, int(limit))
