"""The agent's own metrics, declared in one place, by prometheus-client.

Owns names and help texts; what they count is told by the observers that the parts are given.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import accumulate

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from bridge import __version__
from bridge.errors import JournalUnavailableError
from bridge.heartbeat import Fact
from bridge.journal.history import History
from bridge.journal.ledger import Ledger, pending
from bridge.journal.reader import JournalReader
from bridge.journal.store import Journal
from bridge.registry import Groups
from bridge.schedule import Schedule, present

_log = structlog.get_logger(__name__)
_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Clock = Callable[[], int]
_SIZE_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


class Distribution(Collector):
    """A histogram without labels that costs a push a tenth of the library's, which locks: ours has one thread."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...], registry: CollectorRegistry) -> None:
        """Count observations up to each of `bounds`."""
        self._name, self._text, self._bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[Metric]:
        """Give the metric."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets, self._sum)


class Telemetry:
    """Counters and histograms, and the observer methods that the parts call."""

    def __init__(self) -> None:
        """Create all metrics in a registry of their own."""
        self._told_of_scrape = False
        self.registry = CollectorRegistry()
        own = self.registry
        ProcessCollector(namespace="pushbridge", registry=own)
        Gauge("pushbridge_build_info", "The running version.", ["version"], registry=own).labels(__version__).set(1)
        self.pushes = Counter(
            "pushbridge_pushes",
            "Pushes by method, outcome and reason of refusal.",
            ["method", "outcome", "reason"],
            registry=own,
        )
        self.push_seconds = Distribution(
            "pushbridge_push_duration_seconds", "Time from a push's arrival to its answer.", _LATENCY_BUCKETS, own
        )
        self.commit_seconds = Distribution(
            "pushbridge_commit_duration_seconds", "Time to write one transaction.", _LATENCY_BUCKETS, own
        )
        self.commit_operations = Distribution(
            "pushbridge_commit_operations", "Pushes and confirmations in one transaction.", _SIZE_BUCKETS, own
        )
        self.commit_failures = Counter(
            "pushbridge_commit_failures", "Transactions that did not get onto the disk.", ["reason"], registry=own
        )
        self.type_conflicts = Counter(
            "pushbridge_type_conflicts",
            "Families that were pushed with another type than some other group gives them; both are kept.",
            registry=own,
        )
        self.group_scrapes = Counter(
            "pushbridge_group_scrapes",
            "Scrapes of /metrics that took pushed groups although a target gets them too.",
            registry=own,
        )
        self.recoveries = Gauge(
            "pushbridge_journal_damaged", "1 when a damaged journal was set aside at this start.", registry=own
        )
        self.reload_ok = Gauge(
            "pushbridge_config_last_reload_successful",
            "1 when the newest reload put the configuration in force, or none was asked for, else 0.",
            registry=own,
        )
        self.reload_ok.set(1)
        self.reload_time = Gauge(
            "pushbridge_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read again, 0 for never.",
            registry=own,
        )
        self.spooled = Counter(
            "pushbridge_spool_files",
            "Files of spool directories, by outcome: taken or failed.",
            ["directory", "outcome"],
            registry=own,
        )
        self._declare_sending(own)

    def _declare_sending(self, own: CollectorRegistry) -> None:
        self.sends = Counter(
            "pushbridge_remote_write_requests",
            "remote_write requests by status code.",
            ["target", "code"],
            registry=own,
        )
        self.send_seconds = Histogram(
            "pushbridge_remote_write_duration_seconds",
            "Time of one remote_write request.",
            ["target"],
            buckets=_LATENCY_BUCKETS,
            registry=own,
        )
        self.sent_bytes = Counter(
            "pushbridge_remote_write_sent_bytes", "Compressed bytes sent by remote_write.", ["target"], registry=own
        )
        self.held_sent = Counter(
            "pushbridge_held_samples_sent", "Repeats of held values that the target took.", ["target"], registry=own
        )
        self.held_refused = Counter(
            "pushbridge_held_samples_refused",
            "Repeats of held values that the target refused for good.",
            ["target", "reason"],
            registry=own,
        )
        self.protocol = Gauge(
            "pushbridge_target_protocol",
            "1 for the remote_write version a target gets.",
            ["target", "version"],
            registry=own,
        )
        self.written_by_target = Counter(
            "pushbridge_remote_write_written",
            "Samples, histograms and exemplars that a target says it wrote (remote_write 2.0); nothing relies on it.",
            ["target", "type"],
            registry=own,
        )
        self.letters_replayed = Counter(
            "pushbridge_dead_letters_replayed",
            "Samples of dead letters that the target took when they were sent again.",
            ["target"],
            registry=own,
        )
        self.retried_samples = Counter(
            "pushbridge_samples_retried", "Samples that were sent again.", ["target"], registry=own
        )
        self.metadata = Counter(
            "pushbridge_metadata_sent", "Families whose type, help and unit the target took.", ["target"], registry=own
        )
        self.metadata_failures = Counter(
            "pushbridge_metadata_failed",
            "Families whose type, help and unit the target did not take; they are sent again at the next interval.",
            ["target", "reason"],
            registry=own,
        )

    @cache  # noqa: B019 - one Telemetry lives as long as the process, and looking a child up costs more than counting
    def pushes_of(self, method: str, outcome: str, reason: str) -> Counter:
        """The counter of one kind of push."""
        return self.pushes.labels(method, outcome, reason)

    def groups_scraped(self) -> None:
        """Count a scrape that writes series a second time; the first one is told, for it will come again and again."""
        self.group_scrapes.inc()
        if not self._told_of_scrape:
            self._told_of_scrape = True
            _log.warning(
                "groups_scraped",
                why="remote_write delivers these groups already; remove the scrape job or set web.expose-groups=auto",
            )

    def committed(self, operations: int, seconds: float) -> None:
        """Count one durable transaction."""
        self.commit_operations.observe(operations)
        self.commit_seconds.observe(seconds)

    def reloaded(self, *, ok: bool, at_ms: int) -> None:
        """Note how a reload went."""
        self.reload_ok.set(ok)
        if ok:
            self.reload_time.set(at_ms / 1000)

    def commit_failed(self, reason: str) -> None:
        """Count one failed transaction."""
        self.commit_failures.labels(reason).inc()

    def request_finished(self, target: str, status: int | None, latency_s: float) -> None:
        """Count one remote_write request; its bytes are counted as they go out (`sent`)."""
        self.sends.labels(target, str(status or "none")).inc()
        self.send_seconds.labels(target).observe(latency_s)

    def sent(self, target: str, size: int) -> None:
        """Count the bytes of one body."""
        self.sent_bytes.labels(target).inc(size)

    def speaks(self, target: str, version: str) -> None:
        """Tell the version that a target gets, which is one at a time."""
        for other in ("1.0", "2.0"):
            self.protocol.labels(target, other).set(other == version)

    def written(self, target: str, kind: str, count: int) -> None:
        """Add what a target says."""
        self.written_by_target.labels(target, kind).inc(count)

    def retried(self, target: str, samples: int) -> None:
        """Count samples that go out again."""
        self.retried_samples.labels(target).inc(samples)

    def metadata_sent(self, target: str, families: int) -> None:
        """Count families whose metadata arrived."""
        self.metadata.labels(target).inc(families)

    def metadata_failed(self, target: str, reason: str, families: int) -> None:
        """Count families whose metadata did not arrive."""
        self.metadata_failures.labels(target, reason).inc(families)

    def repeated(self, target: str, reason: str, samples: int) -> None:
        """Count repeats: design.md section 3.2 keeps them apart from what is journaled."""
        if reason:
            self.held_refused.labels(target, reason).inc(samples)
        else:
            self.held_sent.labels(target).inc(samples)


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
            for name, samples in self._history.dead_letters_kept().items():
                kept.add_metric([name], samples)
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
            delivered.add_metric([name], cursor.delivered)
            waiting.add_metric([name], pending(cursor, accepted))
            for reason, samples in cursor.dropped:
                dropped.add_metric([name, reason], samples)
            for reason, samples in cursor.dead_lettered:
                dead.add_metric([name, reason], samples)
            with suppress(JournalUnavailableError):
                oldest_ms = self._reader.oldest_ms(cursor.seq)
                now_ms = self._now_ms()
                age.add_metric([name], max(0, now_ms - (now_ms if oldest_ms is None else oldest_ms)) / 1000)
        yield from (delivered, waiting, dead, dropped, age)


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
