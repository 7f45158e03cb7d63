"""What the agent says of itself: counters as the parts report, sizes and accounts as the journal has them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from bridge.collectors import AccountCollector
from bridge.journal.history import History
from bridge.journal.reader import JournalReader
from bridge.journal.rows import Settled
from bridge.telemetry import Distribution, Telemetry
from tests.journal.test_committer import MIB, NOW_MS, Bench, bulky, committing, end, put


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"pushbridge_{name}", labels)


def test_pushes_are_counted_by_kind() -> None:
    """Each method, outcome and reason has a count of its own."""
    told = Telemetry()
    for kind in (("put", "accepted", ""), ("put", "refused", "parse"), ("put", "accepted", "")):
        told.pushes_of(*kind).inc()
    assert value(told.registry, "pushes_total", method="put", outcome="accepted", reason="") == 2
    assert value(told.registry, "pushes_total", method="put", outcome="refused", reason="parse") == 1


def test_two_agents_in_one_process_count_apart() -> None:
    """Nothing is shared between two sets of metrics."""
    one, other = Telemetry(), Telemetry()
    one.pushes_of("put", "accepted", "").inc()
    one.commit_failed("io_error")
    assert value(one.registry, "commit_failures_total", reason="io_error") == 1
    assert value(other.registry, "commit_failures_total", reason="io_error") == 0
    assert value(other.registry, "pushes_total", method="put", outcome="accepted", reason="") == 0


def test_commits_are_observed_with_their_size() -> None:
    """Transactions, the pushes in them and their time add up."""
    told = Telemetry()
    told.committed(1, 0.25)
    told.committed(9, 0.5)
    assert value(told.registry, "commit_operations_count") == 2
    assert value(told.registry, "commit_operations_sum") == 10
    assert value(told.registry, "commit_operations_bucket", le="5.0") == 1
    assert value(told.registry, "commit_duration_seconds_sum") == 0.75


@pytest.mark.parametrize(("status", "code"), [(204, "204"), (503, "503"), (None, "none")])
def test_requests_are_counted_by_target_and_answer(status: int | None, code: str) -> None:
    """A request that got no answer has a code too."""
    told = Telemetry()
    told.request_finished("mimir", status, 0.5)
    told.sent("mimir", 1000)
    told.retried("mimir", 7)
    assert value(told.registry, "remote_write_requests_total", target="mimir", code=code) == 1
    assert value(told.registry, "remote_write_duration_seconds_sum", target="mimir") == 0.5
    assert value(told.registry, "remote_write_sent_bytes_total", target="mimir") == 1000
    assert value(told.registry, "samples_retried_total", target="mimir") == 7


def test_a_double_scrape_is_told_once_and_counted_each_time() -> None:
    """The log is not filled by a scrape job that was left in place."""
    told = Telemetry()
    with structlog.testing.capture_logs() as log:
        for _ in range(3):
            told.groups_scraped()
    assert [entry["log_level"] for entry in log] == ["warning"]
    assert value(told.registry, "group_scrapes_total") == 3


@dataclass
class Accounts:
    """A journal with two targets, and the registry that tells of it."""

    bench: Bench
    reader: JournalReader
    now_ms: int = NOW_MS
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)


@pytest.fixture
async def accounts(tmp_path: Path) -> AsyncIterator[Accounts]:
    async with committing(tmp_path, "ahead", "behind") as bench:
        with JournalReader(bench.journal.path) as reader:
            made, history = Accounts(bench, reader), History(bench.journal.path)
            committer = bench.committer
            made.registry.register(
                AccountCollector(
                    bench.journal, reader, history, committer.ledger, committer.groups, now_ms=lambda: made.now_ms
                )
            )
            yield made
            history.close()


async def test_the_account_of_each_target_balances(accounts: Accounts) -> None:
    """Accepted is delivered, pending and dropped for every target, as the journal has it."""
    committer = accounts.bench.committer
    for job in ("one", "two", "three"):
        await committer.submit(put(job, "a 1\nb 1\n"))
    await committer.confirm("ahead", [Settled(1, 3, 10, {"rejected": 2})])
    await committer.confirm("behind", [Settled(1, 1, 4, {})])
    found = {
        target: [
            value(accounts.registry, "samples_delivered_total", target=target),
            value(accounts.registry, "samples_pending", target=target),
            value(accounts.registry, "samples_dropped_total", target=target, reason="rejected"),
        ]
        for target in ("ahead", "behind")
    }
    assert value(accounts.registry, "samples_accepted_total") == 12
    assert found == {"ahead": [10, 0, 2], "behind": [4, 8, None]}


async def test_groups_and_series_are_those_that_are_held(accounts: Accounts) -> None:
    """A group that ended counts no more, and its series neither."""
    await accounts.bench.together(put("one", "a 1\nb 1\n"), put("two", "a 1\n"), put("gone"), end("gone"))
    assert (value(accounts.registry, "groups"), value(accounts.registry, "series")) == (2, 3)


async def test_the_journals_size_is_told_with_its_bound(accounts: Accounts) -> None:
    """The used bytes grow with what is pushed and stay below the bound that is told beside them."""
    before = value(accounts.registry, "journal_bytes")
    await accounts.bench.committer.submit(bulky("one", 20))
    after = value(accounts.registry, "journal_bytes")
    assert before is not None
    assert after is not None
    assert before < after < 64 * MIB
    assert value(accounts.registry, "journal_max_bytes") == 64 * MIB


async def test_the_oldest_undelivered_push_has_an_age(accounts: Accounts) -> None:
    """The age is that of the first push a target lacks, 0 when it has all, and never negative."""

    def ages() -> list[float | None]:
        return [value(accounts.registry, "oldest_pending_age_seconds", target=target) for target in ("ahead", "behind")]

    committer = accounts.bench.committer
    assert ages() == [0, 0]
    await committer.submit(put("one"))
    await committer.submit(put("one"))
    accounts.now_ms += 2500
    assert ages() == [2.5, 2.5]
    await committer.confirm("ahead", [Settled(1, 2, 6, {})])
    await committer.confirm("behind", [Settled(1, 1, 3, {})])
    assert ages() == [0, 2.499]
    accounts.now_ms = NOW_MS - 1000
    assert ages() == [0, 0]


async def test_a_journal_that_cannot_be_read_costs_one_figure(accounts: Accounts) -> None:
    """Without reading, the age is missing rather than wrong, and all the rest is told."""
    await accounts.bench.committer.submit(put("one"))
    accounts.reader.close()
    assert value(accounts.registry, "oldest_pending_age_seconds", target="ahead") is None
    assert value(accounts.registry, "samples_pending", target="ahead") == 3
    assert value(accounts.registry, "groups") == 1


BOUNDS = (0.5, 1.0, 2.5, 100.0)


@given(st.lists(st.floats(0, 1e9) | st.sampled_from(BOUNDS) | st.sampled_from([0.0, float("inf")]), max_size=30))
@example([])
@example([*BOUNDS, 0.49999, 0.50001])
def test_a_distribution_shows_what_the_librarys_histogram_shows(observed: list[float]) -> None:
    """Buckets, their names, count and sum are those of prometheus-client; only the time of creation is left out."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distribution = Distribution("pushbridge_x_seconds", "Says x.", BOUNDS, ours)
    histogram = Histogram("pushbridge_x_seconds", "Says x.", buckets=BOUNDS, registry=theirs)
    for value in observed:
        distribution.observe(value)
        histogram.observe(value)
    shown = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == shown


def test_a_target_gets_one_version() -> None:
    """The version that a target gets is 1 and the other 0, also after a fallback; what it says it wrote is counted."""
    told = Telemetry()
    for version, other in (("2.0", "1.0"), ("1.0", "2.0")):
        told.speaks("mimir", version)
        assert value(told.registry, "target_protocol", target="mimir", version=version) == 1
        assert value(told.registry, "target_protocol", target="mimir", version=other) == 0
    told.written("mimir", "samples", 3)
    told.written("mimir", "samples", 4)
    assert value(told.registry, "remote_write_written_total", target="mimir", type="samples") == 7
