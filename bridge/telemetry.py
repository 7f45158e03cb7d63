"""The agent's own metrics, declared in one place, by prometheus-client.

Owns names and help texts; what they count is told by the observers that the parts are given.
"""

from collections.abc import Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bridge import __version__
from bridge.journal.ledger import Ledger, pending
from bridge.journal.store import Journal

_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZE_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


class Telemetry:
    """Counters and histograms, and the observer methods that the parts call."""

    def __init__(self) -> None:
        """Create all metrics in a registry of their own."""
        self.registry = CollectorRegistry()
        own = self.registry
        Gauge("pushbridge_build_info", "The running version.", ["version"], registry=own).labels(__version__).set(1)
        self.pushes = Counter(
            "pushbridge_pushes",
            "Pushes by method, outcome and reason of refusal.",
            ["method", "outcome", "reason"],
            registry=own,
        )
        self.push_seconds = Histogram(
            "pushbridge_push_duration_seconds",
            "Time from a push's arrival to its answer.",
            buckets=_LATENCY_BUCKETS,
            registry=own,
        )
        self.commit_seconds = Histogram(
            "pushbridge_commit_duration_seconds",
            "Time to write one transaction.",
            buckets=_LATENCY_BUCKETS,
            registry=own,
        )
        self.commit_operations = Histogram(
            "pushbridge_commit_operations",
            "Pushes and confirmations in one transaction.",
            buckets=_SIZE_BUCKETS,
            registry=own,
        )
        self.commit_failures = Counter(
            "pushbridge_commit_failures", "Transactions that did not get onto the disk.", ["reason"], registry=own
        )
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
        self.retried_samples = Counter(
            "pushbridge_samples_retried", "Samples that were sent again.", ["target"], registry=own
        )
        self.recoveries = Gauge(
            "pushbridge_journal_damaged", "1 when a damaged journal was set aside at this start.", registry=own
        )

    @cache  # noqa: B019 - one Telemetry lives as long as the process, and looking a child up costs more than counting
    def pushes_of(self, method: str, outcome: str, reason: str) -> Counter:
        """The counter of one kind of push."""
        return self.pushes.labels(method, outcome, reason)

    def committed(self, operations: int, seconds: float) -> None:
        """Count one durable transaction."""
        self.commit_operations.observe(operations)
        self.commit_seconds.observe(seconds)

    def commit_failed(self, reason: str) -> None:
        """Count one failed transaction."""
        self.commit_failures.labels(reason).inc()

    def request_finished(
        self, target: str, status: int | None, latency_s: float, samples: int, sent_bytes: int
    ) -> None:
        """Count one remote_write request."""
        del samples
        self.sends.labels(target, str(status or "none")).inc()
        self.send_seconds.labels(target).observe(latency_s)
        self.sent_bytes.labels(target).inc(sent_bytes)

    def retried(self, target: str, samples: int) -> None:
        """Count samples that go out again."""
        self.retried_samples.labels(target).inc(samples)

    def dropped(self, target: str, reason: str, samples: int) -> None:
        """Nothing: the ledger, which survives restarts, counts what is dropped."""


class AccountCollector(Collector):
    """The totals that live in the journal, read at each scrape (design.md section 3.2)."""

    def __init__(self, journal: Journal, ledger: Ledger) -> None:
        """Read from `journal` and `ledger`, whose owner runs on the same loop as the scrape."""
        self._journal = journal
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Give the account of every target."""
        accepted = CounterMetricFamily("pushbridge_samples_accepted", "Samples journaled since the journal began.")
        accepted.add_metric([], self._journal.accepted_total)
        yield accepted
        delivered = CounterMetricFamily("pushbridge_samples_delivered", "Samples confirmed.", labels=["target"])
        dropped = CounterMetricFamily(
            "pushbridge_samples_dropped", "Samples that the target will never get.", labels=["target", "reason"]
        )
        waiting = GaugeMetricFamily("pushbridge_samples_pending", "Samples not yet confirmed.", labels=["target"])
        for target, cursor in self._ledger.cursors.items():
            delivered.add_metric([target], cursor.delivered)
            waiting.add_metric([target], pending(cursor, self._journal.accepted_total))
            for reason, samples in cursor.dropped:
                dropped.add_metric([target, reason], samples)
        yield from (delivered, waiting, dropped)
