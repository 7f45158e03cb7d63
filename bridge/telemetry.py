"""What the agent counts as it happens, by prometheus-client.

Owns names and help texts, and that each counter is there from the start, at 0, with every reason and target that it can
have: an alert does not see a counter that begins at 1. What is read from the agent's state at each scrape is
`bridge.collectors`'; when something is counted the parts say that this is given to.
"""

from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from itertools import accumulate

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from bridge import __version__
from bridge.reasons import DISK_REASONS, METADATA_FAILURES, PUSH_REASONS, REFUSAL_STATUSES, REFUSALS

_log = structlog.get_logger(__name__)
_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CODES = ("none", *map(str, (200, 202, 204, *REFUSAL_STATUSES, 429, 502, 503, 504)))
"""Of remote_write requests. Another one begins when it comes; retries that go on are seen all the same."""
_WRITTEN = ("samples", "histograms", "exemplars")
_ALONE = ("",)
"""Of a metric that has no other label."""
_METHODS = ("put", "post", "delete")
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
        self._declare_pushing(own)
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
        self._by_target: dict[Counter | Histogram | Gauge, tuple[str, ...]] = {
            self.sends: _CODES,
            self.held_refused: REFUSALS,
            self.written_by_target: _WRITTEN,
            self.metadata_failures: METADATA_FAILURES,
            self.protocol: (),
            **dict.fromkeys(
                (
                    self.send_seconds,
                    self.sent_bytes,
                    self.held_sent,
                    self.letters_replayed,
                    self.retried_samples,
                    self.metadata,
                ),
                _ALONE,
            ),
        }
        """What has a target -> what its other label begins with."""

    def _declare_pushing(self, own: CollectorRegistry) -> None:
        self.pushes = Counter(
            "pushbridge_pushes",
            "Pushes by method, outcome and reason of refusal.",
            ["method", "outcome", "reason"],
            registry=own,
        )
        for method in _METHODS:
            self.pushes.labels(method, "accepted", "")
            for reason in PUSH_REASONS:
                self.pushes.labels(method, "refused", reason)
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
        for reason in DISK_REASONS:
            self.commit_failures.labels(reason)

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

    def have_target(self, target: str) -> None:
        """Show all counters of a target from 0 on; those that there are stay as they are."""
        for metric, words in self._by_target.items():
            for word in words:
                metric.labels(target, *([word] if word else ()))

    def forget_target(self, target: str) -> None:
        """Show nothing of a target any more."""
        for metric in self._by_target:
            metric.remove_by_labels({"target": target})

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
