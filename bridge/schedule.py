"""What is expected of the jobs: the newest run of each group, when the next one is due, and which are overdue.

Owns the series `pushbridge_job_overdue`. An expectation is the newest run's own (`exec --every`), else the rule's.
Pure: the clock is an argument, and what is published here is on disk.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bridge.groups import Change, Group
from bridge.heartbeat import Fact, head_of
from bridge.journal.rows import RunNote, RunRow
from bridge.model import Labels
from bridge.rules import Rules
from bridge.runs import RUN_START, newer, read_run

OVERDUE = "pushbridge_job_overdue"


@dataclass(frozen=True, slots=True)
class Expected:
    """When a group is to be heard of again."""

    group: Group
    expected_ms: int
    due_ms: int
    """With the grace."""

    def is_overdue(self, at_ms: int) -> bool:
        """Whether it has not been heard of, and should have been."""
        return at_ms > self.due_ms


class Schedule:
    """The newest runs, and what the rules expect."""

    def __init__(
        self, rules: Rules | None = None, external: Mapping[str, str] | None = None, runs: Iterable[RunRow] = ()
    ) -> None:
        """Begin with these newest runs of groups that have not ended; external labels are sent with every series."""
        self.rules = rules or Rules()
        self._external = external or {}
        self._newest = {run.group: run for run in runs}

    def newest(self, key: bytes) -> RunRow | None:
        """The newest run of a group."""
        return self._newest.get(key)

    def publish(self, notes: Iterable[RunNote]) -> None:
        """Take over what is on disk."""
        for note in notes:
            key = note if isinstance(note, bytes) else note.group
            run = newer(self._newest.get(key), note)
            if run is None:
                self._newest.pop(key, None)
            else:
                self._newest[key] = run

    def note(self, change: Change, known: RunRow | None) -> RunNote | None:
        """What is new of runs after a change of a group with this newest run, None when nothing is."""
        group = change.group
        if not group.live:
            return group.id.key if known is not None else None
        names, metric = change.content.shape.names, self.rules.find(group.id.labels).runs.success_metric
        # Most pushes tell of no run.
        if RUN_START not in names and metric not in names:
            return None
        max_runtime_ms = self.rules.max_runtime_ms(group.id.labels)
        return read_run(change.content, group, known, success_metric=metric, max_runtime_ms=max_runtime_ms)

    def expected(self, group: Group, newest: RunRow | None) -> Expected | None:
        """When a group is expected, None when nobody said so or it was never heard of.

        It counts from the start of the newest run, and without runs from the newest successful push.
        """
        since_ms = newest.start_ms if newest is not None else group.push_ms
        if not group.live or not since_ms:
            return None
        if newest is not None and newest.every_ms:
            every_ms, grace_ms = newest.every_ms, newest.grace_ms
        else:
            every_ms, grace_ms = self.rules.expected_ms(group.id.labels)
        return Expected(group, since_ms + every_ms, since_ms + every_ms + grace_ms) if every_ms else None

    def all_expected(self, groups: Iterable[Group]) -> Iterator[Expected]:
        """What is expected of these groups; of those that differ in their source only, the latest."""
        if not self._newest and not self.rules.expect_something:
            return
        found: dict[frozenset[tuple[str, str]], Expected] = {}
        for group in groups:
            expected = self.expected(group, self._newest.get(group.id.key))
            if expected is not None:
                labels = frozenset({**self._external, **dict(present(group.id.labels))}.items())
                if labels not in found or found[labels].due_ms < expected.due_ms:
                    found[labels] = expected
        yield from found.values()

    def facts(self, groups: Iterable[Group], at_ms: int) -> Iterator[Fact]:
        """What is to be sent for a point of the grid.

        A group that changed since then is passed over: its series may have ended and begun again meanwhile.
        """
        for expected in self.all_expected(groups):
            if expected.group.last_ms < at_ms:
                yield OVERDUE, present(expected.group.id.labels), float(expected.is_overdue(at_ms))

    def ended(self, before: Group, known: RunRow | None, after: Group, newest: RunRow | None) -> tuple[bytes, ...]:
        """The series that a change of a group ends: nothing is expected of it any more."""
        if self.expected(before, known) is None or self.expected(after, newest) is not None:
            return ()
        return (head_of(OVERDUE, present(before.id.labels), self._external),)


def present(labels: Labels) -> Labels:
    """Labels that are sent: an empty one is none."""
    return tuple(pair for pair in labels if pair[1])
