"""Dropped files: what thousands of them cost an agent when it starts, when all change at once, and when none does.

A row is one agent in a fresh process with one `collect` directory and one target, the cheap receiver.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bridge.journal import schema
from tests.bench.bodies import make_bodies
from tests.bench.contenders import AGENT, await_delivery, cpu_s, peak_rss_bytes
from tests.bench.table import Floor
from tests.blackbox import servers
from tests.blackbox.servers import Server

SHAPES = ((10, 5_000), (100, 1_000))
"""(series in a file, files)."""
_IDLE_S = 35.0
"""A little more than the time between two rescans."""
_WITHIN_S = 120.0
_POLL_S = 0.05
_MOST_IDLE_CPU_S = 3.5
_HEAD = (
    "series",
    "files",
    "first taken in",
    "CPU s",
    "all changed, taken in",
    "CPU s",
    "CPU s in 35 s idle",
    "peak RSS MiB",
)


@dataclass(frozen=True, slots=True)
class FileRow:
    """One directory."""

    series: int
    files: int
    first_s: float
    first_cpu_s: float
    changed_s: float
    changed_cpu_s: float
    idle_cpu_s: float
    peak_rss_bytes: int


def measure_files(url: str, directory: Path, series: int, files: int) -> FileRow:
    """Start an agent beside a full directory, change every file, then leave it alone."""
    dropped = directory / "dropped"
    dropped.mkdir()
    _write_all(dropped, series, files, 0)
    started_s = time.monotonic()
    server = servers.agent(
        directory, f"--remote-write.url={url}", f"--textfile.directory={dropped}", "--log.level=warn"
    )
    try:
        _await_accepted(server, series * files)
        first_s, first_cpu_s = time.monotonic() - started_s, cpu_s(server)
        await_delivery(AGENT, server, _WITHIN_S)
        before_cpu_s, started_s = cpu_s(server), time.monotonic()
        _write_all(dropped, series, files, 1)
        _await_accepted(server, 2 * series * files)
        changed_s, changed_cpu_s = time.monotonic() - started_s, cpu_s(server) - before_cpu_s
        await_delivery(AGENT, server, _WITHIN_S)
        before_cpu_s = cpu_s(server)
        time.sleep(_IDLE_S)
        idle_cpu_s = cpu_s(server) - before_cpu_s
        return FileRow(
            series, files, first_s, first_cpu_s, changed_s, changed_cpu_s, idle_cpu_s, peak_rss_bytes(server)
        )
    finally:
        server.kill()


def write_head() -> str:
    """The first two lines of the table."""
    return f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}"


def write_row(row: FileRow) -> str:
    """One line of the table."""
    cells = (
        f"{row.series}",
        f"{row.files:,}",
        f"{row.first_s:.1f} s",
        f"{row.first_cpu_s:.1f}",
        f"{row.changed_s:.1f} s",
        f"{row.changed_cpu_s:.1f}",
        f"{row.idle_cpu_s:.1f}",
        f"{row.peak_rss_bytes / (1 << 20):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def find_floors(row: FileRow) -> Iterator[Floor]:
    """Hold a row against its floor."""
    text = f"{row.files:,} files of {row.series} series: an idle directory under a tenth of a core"
    yield Floor(text, f"{row.idle_cpu_s:.1f} s in {_IDLE_S:g} s", row.idle_cpu_s < _MOST_IDLE_CPU_S)


def _write_all(directory: Path, series: int, files: int, round_: int) -> None:
    bodies = make_bodies(series)
    for number in range(files):
        hidden = directory / f".{number}.tmp"
        job = f"# PUSHBRIDGE job=bench instance=host-{number:05}\n".encode()
        hidden.write_bytes(job + bodies[(number + round_) % len(bodies)])
        hidden.rename(directory / f"host-{number:05}.prom")


def _await_accepted(server: Server, samples: int) -> None:
    """Wait until the journal has so many; asking the agent for its metrics, a few for each file, would cost it much."""
    path = server.directory / "storage" / schema.FILE_NAME
    deadline_s = time.monotonic() + _WITHIN_S
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
        while (found := _accepted(journal)) < samples:
            if time.monotonic() > deadline_s:
                raise SystemExit(f"bench: files: {found:,} of {samples:,} samples in {_WITHIN_S:g} s")
            time.sleep(_POLL_S)


def _accepted(journal: sqlite3.Connection) -> int:
    ((found,),) = journal.execute("SELECT value FROM meta WHERE name = 'accepted_total'").fetchall()
    return int(found)
