"""The results as a Markdown table, and the floors that they are held against. Pure but for `conditions`."""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import Load

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_HEAD = (
    "series",
    "groups",
    "contender",
    "pushes/s",
    "series/s",
    "p50 ms",
    "p99 ms",
    "CPU s",
    "peak RSS MiB",
    "not 2xx",
    "all delivered after",
)
_TIMES_PUSHGATEWAY = 20.0
_SHARE_OF_VMAGENT, _AIM_OF_VMAGENT = 0.25, 0.5
_SHARE_AT_MANY_GROUPS = 0.75
_MOST_P99_MS = 50.0
_MOST_RSS_BYTES = 200e6


@dataclass(frozen=True, slots=True)
class Row:
    """One contender with one size of push and one number of groups."""

    contender: str
    series: int
    groups: int
    load: Load | None = None
    """None when the row was left out."""
    cpu_s: float = 0.0
    """Of the contender, from the first push measured until all was delivered."""
    peak_rss_bytes: int = 0
    delivered: str = ""
    """How long the rest took after the last push, or what is wrong; empty when it forwards nothing."""
    complete: bool = True
    note: str = ""
    """Why the row was left out."""


@dataclass(frozen=True, slots=True)
class Floor:
    """One thing that is asked of the agent."""

    text: str
    figure: str
    passed: bool


def write_row(row: Row) -> str:
    """One line of the table."""
    cells = [f"{row.series}", f"{row.groups:,}", row.contender]
    if row.load is None:
        cells += ["-"] * (len(_HEAD) - len(cells) - 1) + [f"left out: {row.note}"]
    else:
        load = row.load
        cells += [
            f"{load.per_s:,.0f}" if load.per_s >= 10 else f"{load.per_s:.2g}",
            f"{load.per_s * row.series:,.0f}",
            f"{load.p50_ms:.2f}",
            f"{load.p99_ms:.2f}",
            f"{row.cpu_s:.1f}",
            f"{row.peak_rss_bytes / (1 << 20):.0f}",
            f"{load.refused}",
            row.delivered or "-",
        ]
    return f"| {' | '.join(cells)} |"


def write_head() -> str:
    """The first two lines of the table."""
    return f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}"


def find_floors(rows: Sequence[Row]) -> Iterator[Floor]:
    """Hold what was measured against the floors; what was not measured gives none."""
    loads = {(row.contender, row.series, row.groups): row.load for row in rows if row.load}
    for (contender, series, groups), load in loads.items():
        if contender != "agent":
            continue
        where = f"{series} series, {groups:,} groups"
        pushgateway = loads.get(("pushgateway", series, groups))
        if groups == 100 and pushgateway:
            yield _at_least(f"{where}: times Pushgateway", load.per_s / pushgateway.per_s, _TIMES_PUSHGATEWAY)
        few = loads.get(("agent", series, 100))
        if groups > 100 and few:
            yield _at_least(f"{where}: share of the speed at 100 groups", load.per_s / few.per_s, _SHARE_AT_MANY_GROUPS)
        if vmagent := loads.get(("vmagent", series, groups)):
            share = load.per_s / vmagent.per_s
            yield _at_least(f"{where}: share of vmagent (aim {_AIM_OF_VMAGENT})", share, _SHARE_OF_VMAGENT)
        yield Floor(f"{where}: p99 under {_MOST_P99_MS:g} ms", f"{load.p99_ms:.1f} ms", load.p99_ms < _MOST_P99_MS)
    for row in rows:
        if row.contender == "agent" and (row.series, row.groups) == (10, 10_000) and row.load:
            megabytes = row.peak_rss_bytes / 1e6
            text = f"10 series, 10,000 groups: under {_MOST_RSS_BYTES / 1e6:g} MB resident"
            yield Floor(text, f"{megabytes:.0f} MB", row.peak_rss_bytes < _MOST_RSS_BYTES)
    measured = [row for row in rows if row.load]
    refused = sum(row.load.refused for row in measured if row.load)
    yield Floor("every answer of every contender is 2xx", f"{refused} others", refused == 0)
    short = [f"{row.contender} {row.series} x {row.groups:,}" for row in measured if not row.complete]
    left_out = [f"{row.series} x {row.groups:,}" for row in rows if row.contender == "agent" and not row.load]
    yield Floor("no row of the agent is left out", ", ".join(left_out) or "none", not left_out)
    yield Floor("every sample taken is delivered", ", ".join(short) or "all", not short)


def write_floor(floor: Floor) -> str:
    """One line of the list of floors."""
    return f"- {'pass' if floor.passed else 'FAIL'}: {floor.text}: {floor.figure}"


def conditions(command: str, directory: Path, packages: Sequence[str]) -> str:
    """Say where and with what it was measured."""
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    commit = _output("git", "describe", "--always", "--dirty", "--exclude=*")
    peers = [f"{package} {_output('dpkg-query', '--show', '--showformat=${Version}', package)}" for package in packages]
    return "\n".join(
        (
            f"- `{command}`, commit {commit}, {time.strftime('%Y-%m-%d', time.gmtime())}",
            f"- {os.cpu_count()} cores, {model.partition(': ')[2]}; fdatasync of 4 KiB: {_sync_ms(directory):.2f} ms",
            f"- Debian's {', '.join(peers) or 'peers not measured'}",
        )
    )


def replace_results(readme: str, results: str) -> str:
    """Put `results` between the markers."""
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n{results}\n{END}{rest.partition(END)[2]}"


def _at_least(text: str, figure: float, floor: float) -> Floor:
    return Floor(f"{text}, at least {floor:g}", f"{figure:.2f}", figure >= floor)


def _output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def _sync_ms(directory: Path) -> float:
    def once() -> float:
        start_s = time.perf_counter()
        file.write(b"x" * 4096)
        file.flush()
        os.fdatasync(file.fileno())
        return 1000 * (time.perf_counter() - start_s)

    with tempfile.TemporaryFile(dir=directory) as file:
        return statistics.median(once() for _ in range(100))
