"""Metrics that are read at each scrape from what the agent has: accounts, sizes, ages, what is overdue, files.

Owns their names and help texts. What is counted as it happens is `bridge.telemetry`'s; nothing is changed here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bridge.errors import JournalUnavailableError
from bridge.heartbeat import Fact
from bridge.journal.history import History
from bridge.journal.ledger import Ledger, accepted_by, pending
from bridge.journal.reader import JournalReader
from bridge.journal.store import Journal
from bridge.reasons import DROPS, REFUSALS
from bridge.registry import Groups
from bridge.schedule import Schedule, present

Clock = Callable[[], int]


class AccountCollector(Collector):
    """What the journal and the groups hold, read at each scrape (design.md section 3.2)."""

    def __init__(
        self,
        journal: Journal,
        reader: JournalReader,
        history: History,
        ledger: Ledger,
        groups: Groups,
        *,
        now_ms: Clock,
    ) -> None:
        """Read from these, whose owner runs on the same loop as the scrape."""
        self._journal = journal
        self._reader = reader
        self._history = history
        self._ledger = ledger
        self._groups = groups
        self._now_ms = now_ms

    def collect(self) -> Iterator[Metric]:
        """Give sizes and the account of every target."""
        live = list(self._groups.live())
        yield GaugeMetricFamily("pushbridge_groups", "Groups that hold something.", len(live))
        series = sum(len(part) for group in live for part in group.parts)
        yield GaugeMetricFamily("pushbridge_series", "Series in these groups.", series)
        yield GaugeMetricFamily("pushbridge_journal_bytes", "Used bytes of the journal.", self._journal.used_bytes())
        yield GaugeMetricFamily("pushbridge_journal_max_bytes", "storage.max_bytes.", self._journal.max_bytes)
        yield self._held_by()
        accepted = self._journal.accepted_total
        yield CounterMetricFamily("pushbridge_samples_accepted", "Samples journaled since the journal began.", accepted)
        yield from self._account(accepted)
        kept = GaugeMetricFamily(
            "pushbridge_dead_letters", "Samples kept of what a target refused for good.", labels=["target"]
        )
        with suppress(JournalUnavailableError):
            found = self._history.dead_letters_kept()
            for name in self._ledger.cursors:
                kept.add_metric([name], found.get(name, 0))
        yield kept

    def _held_by(self) -> Metric:
        held = GaugeMetricFamily(
            "pushbridge_journal_held_by",
            "1 when the journal has been full and this target has not taken its oldest pushes since, else 0.",
            labels=["target"],
        )
        for name in self._ledger.cursors:
            held.add_metric([name], float(name in self._ledger.held_by))
        return held

    def _account(self, accepted: int) -> Iterator[Metric]:
        target = ["target"]
        taken = CounterMetricFamily(
            "pushbridge_target_samples_accepted",
            "Samples journaled since the target was added: what it is to get.",
            labels=target,
        )
        delivered = CounterMetricFamily("pushbridge_samples_delivered", "Samples confirmed.", labels=target)
        dropped = CounterMetricFamily(
            "pushbridge_samples_dropped", "Samples that the target will never get.", labels=["target", "reason"]
        )
        dead = CounterMetricFamily(
            "pushbridge_samples_dead_lettered", "Samples that the target refused for good.", labels=["target", "reason"]
        )
        waiting = GaugeMetricFamily("pushbridge_samples_pending", "Samples not yet confirmed.", labels=target)
        age = GaugeMetricFamily(
            "pushbridge_oldest_pending_age_seconds",
            "Time since the arrival of the oldest push that is not confirmed, 0 when there is none.",
            labels=target,
        )
        for name, cursor in self._ledger.cursors.items():
            taken.add_metric([name], accepted_by(cursor, accepted))
            delivered.add_metric([name], cursor.delivered)
            waiting.add_metric([name], pending(cursor, accepted))
            for reason, samples in (dict.fromkeys(DROPS, 0) | dict(cursor.dropped)).items():
                dropped.add_metric([name, reason], samples)
            for reason, samples in (dict.fromkeys(REFUSALS, 0) | dict(cursor.dead_lettered)).items():
                dead.add_metric([name, reason], samples)
            with suppress(JournalUnavailableError):
                oldest_ms = self._reader.oldest_ms(cursor.seq)
                now_ms = self._now_ms()
                age.add_metric([name], max(0, now_ms - (now_ms if oldest_ms is None else oldest_ms)) / 1000)
        yield from (taken, delivered, waiting, dead, dropped, age)


class OverdueCollector(Collector):
    """Which jobs are overdue, asked at each scrape."""

    def __init__(self, schedule: Schedule, groups: Groups, now_ms: Clock) -> None:
        """Read from these, whose owner runs on the same loop as the scrape."""
        self._schedule = schedule
        self._groups = groups
        self._now_ms = now_ms

    def collect(self) -> Iterator[Metric]:
        """Give a value for each group that is expected, with the group's labels."""
        overdue = GaugeMetricFamily(
            "pushbridge_job_overdue", "1 when a run, or a push, is late by more than its grace."
        )
        now_ms = self._now_ms()
        for expected in self._schedule.all_expected(self._groups.live()):
            labels = dict(present(expected.group.id.labels))
            overdue.add_sample(overdue.name, labels, float(expected.is_overdue(now_ms)))
        yield overdue


class FileCollector(Collector):
    """What is known of dropped files, read at each scrape; a file that goes takes its metrics with it."""

    def __init__(self, facts: Callable[[], Iterable[Fact]]) -> None:
        """Show what `facts` gives."""
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """Give a sample for each file."""
        families = {
            name: GaugeMetricFamily(name, text, labels=["file"])
            for name, text in (
                ("pushbridge_textfile_error", "1 when a file, or a whole directory, could not be taken, else 0."),
                ("pushbridge_textfile_mtime_seconds", "When the content of a file that is in force was written."),
            )
        }
        for name, labels, value in self._facts():
            families[name].add_metric([text for _, text in labels], value)
        yield from families.values()
