"""The drain: how fast a backlog goes once its receiver is back, in how much memory, and what new pushes feel of it.

A row is one contender in a fresh process and directory. Nothing listens at its target while it takes the backlog; then
the counting receiver comes up there, which answers each request only after a while.
"""

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.bodies import make_bodies
from tests.bench.contenders import AGENT, VMAGENT, Contender, await_delivery, peak_rss_bytes, reset_peak, rss_bytes
from tests.bench.counting import Counts
from tests.bench.load import Load, Plan, push_each
from tests.bench.paced import pushing
from tests.bench.table import Floor
from tests.blackbox import servers
from tests.blackbox.ports import free_port
from tests.blackbox.servers import Server

CONTENDERS = (AGENT, VMAGENT)
BACKLOG = 10_000_000
"""Samples."""
DELAY_S = 0.05
_SERIES, _GROUPS = 1000, 100
_FRESH_SERIES, _FRESH_CONNECTIONS, _FRESH_PER_S = 10, 16, 100.0
_QUIET_S = 20.0
_WITHIN_S = 600.0
_POLL_S = 0.5
_MOST_RSS_BYTES = 200e6
_MOST_P99_MS = 50.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_HEAD = (
    "backlog",
    "contender",
    "begun after",
    "drained in",
    "samples/s",
    "RSS MiB before",
    "peak RSS MiB",
    "new pushes",
    "p50 ms",
    "p99 ms",
    "p99 ms in quiet",
    "missing",
    "requests (twice)",
)


@dataclass(frozen=True, slots=True)
class DrainRow:
    """One contender and one backlog."""

    contender: str
    backlog: int
    """Samples that were answered 2xx while the receiver was down."""
    up_s: float
    """Monotonic time when the receiver was back."""
    counts: Counts
    """Of the receiver, in the end."""
    missing: int
    """Samples answered 2xx, of the backlog and of the new pushes, that the receiver did not get."""
    lost: float
    """By the contender's own account."""
    rss_bytes: int
    peak_rss_bytes: int
    during: Load
    quiet: Load

    @property
    def begun_s(self) -> float:
        """From the receiver's return to the first samples: the contender's pause between two tries."""
        return self.counts.first_s - self.up_s

    @property
    def seconds(self) -> float:
        """From the first samples of the backlog to the last."""
        return self.counts.newest_s - self.counts.first_s


def measure_drain(contender: Contender, directory: Path, samples: int = BACKLOG) -> DrainRow:
    """Gather a backlog and let it drain."""
    port = free_port()
    server = contender.start(directory, f"http://127.0.0.1:{port}/api/v1/write")
    try:
        backlog = _gather(contender, server, samples)
        resident = rss_bytes(server)
        reset_peak(server)
        with pushing(_fresh(contender, server), _FRESH_PER_S) as stop, _receiver(directory, port) as receiver:
            up_s = time.monotonic()
            _await_count(receiver, lambda counts: counts.backlog >= backlog)
            during, peak_bytes = stop(), peak_rss_bytes(server)
            await_delivery(contender, server, _WITHIN_S)
            with pushing(_fresh(contender, server), _FRESH_PER_S) as stop_quiet:
                time.sleep(_QUIET_S)
                quiet = stop_quiet()
            account = await_delivery(contender, server, _WITHIN_S)
            fresh = (during.answers + quiet.answers) * _FRESH_SERIES
            counts = _await_count(receiver, lambda counts: counts.fresh >= fresh)
        refused = during.refused + quiet.refused
        if refused or account is None:
            raise SystemExit(f"bench: drain: {contender.name} refused: {during.refusal or quiet.refusal}")
        missing = backlog + fresh - counts.backlog - counts.fresh
        memory = resident, peak_bytes
        return DrainRow(contender.name, backlog, up_s, counts, missing, account.lost, *memory, during, quiet)
    except (ConnectionError, TimeoutError) as error:
        raise SystemExit(f"bench: drain: {contender.name}: {error}; its log ends:\n{server.log_tail()}") from error
    finally:
        server.kill()


def write_head() -> str:
    """The first two lines of the table."""
    return f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}"


def write_row(row: DrainRow) -> str:
    """One line of the table."""
    cells = (
        f"{row.backlog:,}",
        row.contender,
        f"{row.begun_s:.1f} s",
        f"{row.seconds:.1f} s",
        f"{row.backlog / row.seconds:,.0f}",
        f"{row.rss_bytes / (1 << 20):.0f}",
        f"{row.peak_rss_bytes / (1 << 20):.0f}",
        f"{row.during.answers:,}",
        f"{row.during.p50_ms:.1f}",
        f"{row.during.p99_ms:.1f}",
        f"{row.quiet.p99_ms:.1f}",
        f"{row.missing:,}",
        f"{row.counts.requests:,} ({row.counts.again})",
    )
    return f"| {' | '.join(cells)} |"


def find_floors(row: DrainRow) -> Iterator[Floor]:
    """Hold the agent's row against its floors."""
    if row.contender != AGENT.name:
        return
    where = f"drain of {row.backlog:,} samples"
    megabytes, p99_ms = row.peak_rss_bytes / 1e6, row.during.p99_ms
    yield Floor(
        f"{where}: under {_MOST_RSS_BYTES / 1e6:g} MB resident",
        f"{megabytes:.0f} MB",
        row.peak_rss_bytes < _MOST_RSS_BYTES,
    )
    yield Floor(f"{where}: p99 of new pushes under {_MOST_P99_MS:g} ms", f"{p99_ms:.1f} ms", p99_ms < _MOST_P99_MS)
    text = f"{row.missing:,} missing, {row.lost:,.0f} dropped"
    yield Floor(f"{where}: the receiver has every sample", text, row.missing == 0 and row.lost == 0)


def _gather(contender: Contender, server: Server, samples: int) -> int:
    """Push while nothing listens at the target; gives the samples that were taken."""
    paths = tuple(_path(contender).format(group) for group in range(_GROUPS))
    rounds = samples // _SERIES // _GROUPS
    plan = Plan(server.port, contender.method, paths * rounds, make_bodies(_SERIES), 16)
    load = push_each(plan, _WITHIN_S)
    if load.refused or load.answers < len(plan.paths):
        raise SystemExit(f"bench: drain: {contender.name} took {load.answers:,} pushes; first refusal: {load.refusal}")
    return load.answers * _SERIES


def _fresh(contender: Contender, server: Server) -> Plan:
    """Pushes of other groups and with other names than the backlog's."""
    path = _path(contender).replace("bench", "fresh")
    paths = tuple(path.format(group) for group in range(_GROUPS))
    bodies = tuple(body.replace(b"batch_", b"fresh_") for body in make_bodies(_FRESH_SERIES))
    return Plan(server.port, contender.method, paths, bodies, _FRESH_CONNECTIONS)


def _path(contender: Contender) -> str:
    # Repeats of what is held would be counted as the samples that they repeat.
    return f"{contender.path}?ttl=0" if contender is AGENT else contender.path


def _receiver(directory: Path, port: int) -> Server:
    command = sys.executable, "-m", "tests.bench.counting", str(port), str(DELAY_S)
    return servers._start("counting", command, port, "/", directory)


def _await_count(receiver: Server, reached: Callable[[Counts], bool]) -> Counts:
    """Wait until the receiver has enough, or long enough; gives what it has."""
    deadline_s = time.monotonic() + _WITHIN_S
    while True:
        with _DIRECT.open(receiver.url, timeout=60) as response:
            counts = Counts(**json.load(response))
        if reached(counts):
            return counts
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"after {_WITHIN_S:g} s the receiver has only {counts}")
        time.sleep(_POLL_S)
