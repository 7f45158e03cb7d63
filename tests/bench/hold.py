"""The hold: what a point of the grid costs an agent that repeats a million series, and what pushes feel of it.

A row is one agent in a fresh process and directory with one target, the cheap receiver. Every group is pushed over
HTTP, then two points of the grid are watched: one alone, one with pushes going on.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.bodies import make_bodies
from tests.bench.contenders import AGENT, await_delivery, cpu_s, peak_rss_bytes, read_totals, rss_bytes
from tests.bench.load import Load, Plan, push_at_random, push_each
from tests.bench.table import Floor
from tests.blackbox.servers import Server

INTERVAL_S = 60
SHAPES = ((100, 10_000), (10, 100_000))
"""(series in a group, groups)."""
_MOST_CPU_S = 30.0
_MARGIN_S = 2.0
_POLL_S = 0.1
_ROUND_WITHIN_S = 55.0
_HEAD = (
    "series",
    "groups",
    "repeats in a tick",
    "CPU s a tick",
    "last confirmed after",
    "RSS MiB",
    "peak RSS MiB",
    "p99 ms without a tick",
    "p99 ms during a tick",
    "pushes/s during a tick",
)


@dataclass(frozen=True, slots=True)
class HoldRow:
    """One shape of a million series."""

    series: int
    groups: int
    repeats: int
    cpu_s: float
    """Of the agent, from just before the point until a moment after the last repeat."""
    seconds: float
    """From the point of the grid to the last repeat that the receiver confirmed."""
    rss_bytes: int
    peak_rss_bytes: int
    calm: Load
    ticking: Load


def measure_hold(url: str, directory: Path, series: int, groups: int) -> HoldRow:
    """Populate an agent and watch it."""
    server = AGENT.start(directory, url)
    try:
        paths = tuple(AGENT.path.format(group) for group in range(groups))
        plan = Plan(server.port, AGENT.method, paths, make_bodies(series), 16)
        push_each(plan, 600.0)
        await_delivery(AGENT, server, 600.0)
        _sleep_until(_next_point_s() + INTERVAL_S - _MARGIN_S)
        before, started_s, point_s = _sent(server), cpu_s(server), _next_point_s()
        _sleep_until(point_s)
        wanted = (series + 2) * groups
        while _sent(server) < before + wanted:
            if time.time() > point_s + _ROUND_WITHIN_S:
                raise SystemExit(
                    f"bench: hold: {_sent(server) - before:,.0f} of {wanted:,} repeats in {_ROUND_WITHIN_S} s"
                )
            time.sleep(_POLL_S)
        seconds, used_s = time.time() - point_s, cpu_s(server) - started_s
        resident = rss_bytes(server)
        calm = push_at_random(plan, 5.0)
        _sleep_until(_next_point_s() - 0.5)
        ticking = push_at_random(plan, max(seconds, 5.0))
        return HoldRow(series, groups, wanted, used_s, seconds, resident, peak_rss_bytes(server), calm, ticking)
    except (ConnectionError, TimeoutError) as error:
        raise SystemExit(f"bench: hold: {error}; its log ends:\n{server.log_tail()}") from error
    finally:
        server.kill()


def write_head() -> str:
    """The first two lines of the table."""
    return f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}"


def write_row(row: HoldRow) -> str:
    """One line of the table."""
    cells = (
        f"{row.series}",
        f"{row.groups:,}",
        f"{row.repeats:,}",
        f"{row.cpu_s:.1f}",
        f"{row.seconds:.1f} s",
        f"{row.rss_bytes / (1 << 20):.0f}",
        f"{row.peak_rss_bytes / (1 << 20):.0f}",
        f"{row.calm.p99_ms:.1f}",
        f"{row.ticking.p99_ms:.1f}",
        f"{row.ticking.per_s:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def find_floors(row: HoldRow) -> Iterator[Floor]:
    """Hold a row against its floors."""
    where = f"hold of {row.series} series in {row.groups:,} groups"
    yield Floor(f"{where}: a tick under {_MOST_CPU_S:g} CPU s", f"{row.cpu_s:.1f} s", row.cpu_s < _MOST_CPU_S)


def _next_point_s() -> float:
    return (time.time() // INTERVAL_S + 1) * INTERVAL_S


def _sleep_until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.time()))


def _sent(server: Server) -> float:
    return read_totals(server).get("pushbridge_held_samples_sent_total", 0.0)
