"""Judges a run by its end: what was pushed, and how that was answered, against what a receiver stored.

Knows nothing of the agent, of HTTP and of how the run was made: values in, faults out. A series has one writer,
which never sends a value twice, so a value tells which push it came from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

Series = tuple[tuple[str, str], ...]
"""Label pairs sorted by name, `__name__` among them."""

Fate = Literal["acknowledged", "refused", "unanswered"]
"""Answered 2xx; answered otherwise; cut off, so that nobody knows whether it was taken."""

Kind = Literal["missing", "unknown", "reordered", "altered", "repeated", "marker"]

HOLD_INTERVAL_MS = 60_000
"""The agent's default."""
_NOTHING = object()

AGENTS_OWN = frozenset({"push_time_seconds", "push_failure_time_seconds"})
"""Series that no writer pushes: their order is judged, and that they never end."""


class _OfSeries(Protocol):
    @property
    def series(self) -> Series: ...


_T = TypeVar("_T", bound=_OfSeries)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What one push said about one series."""

    series: Series
    value: float | None
    """None when the push says that the series has ended."""
    fate: Fate = "acknowledged"


@dataclass(frozen=True, slots=True)
class Stored:
    """One sample as the receiver has it."""

    series: Series
    timestamp_ms: int
    value: float | None
    """None for a staleness marker."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken promise."""

    kind: Kind
    series: Series
    detail: str


def without_repeats(stored: Iterable[Stored], interval_ms: int = HOLD_INTERVAL_MS) -> list[Stored]:
    """Leave out what an agent adds on the grid of its hold: its own series, and values that it only repeats."""
    newest: dict[Series, float | None] = {}
    kept: list[Stored] = []
    for sample in stored:
        on_grid = sample.timestamp_ms % interval_ms == 0
        own = dict(sample.series).get("job") == "pushbridge"
        if not (on_grid and (own or newest.get(sample.series, _NOTHING) == sample.value)):
            kept.append(sample)
        newest[sample.series] = sample.value
    return kept


def judge(pushed: Iterable[Pushed], stored: Iterable[Stored], *, max_rewinds: int = 0) -> list[Fault]:
    """Find every fault of a run.

    `pushed` is in the order in which each series' writer sent it, `stored` in order of arrival. A sender that was
    cut off may start again from an earlier sample, up to `max_rewinds` times; what it repeats must be the same.
    """
    pushed, stored = list(pushed), list(stored)
    logs, arrivals = _by_series(pushed), _by_series(stored)
    faults = [Fault("missing", entry.series, f"{entry.value} never arrived") for entry in missing(pushed, stored)]
    for series in sorted(logs.keys() | arrivals.keys()):
        line, found = _timeline(series, arrivals.get(series, []), max_rewinds)
        faults += found
        if dict(series)["__name__"] not in AGENTS_OWN:
            faults += _against_log(series, logs.get(series, []), line)
        elif any(sample.value is None for sample in line):
            faults.append(Fault("marker", series, "it ended, and nobody ended it"))
    return faults


def missing(pushed: Iterable[Pushed], stored: Iterable[Stored]) -> list[Pushed]:
    """Return the acknowledged values that never arrived."""
    values = [entry for entry in pushed if entry.fate == "acknowledged" and entry.value is not None]
    arrived = {(sample.series, sample.value) for sample in stored}
    return [entry for entry in values if (entry.series, entry.value) not in arrived]


def _by_series(items: Iterable[_T]) -> dict[Series, list[_T]]:
    found: dict[Series, list[_T]] = {}
    for item in items:
        found.setdefault(item.series, []).append(item)
    return found


def _timeline(series: Series, arrivals: Sequence[Stored], max_rewinds: int) -> tuple[list[Stored], list[Fault]]:
    """Take the repeats out of a series' arrivals, and judge them and the timestamps."""
    line: list[Stored] = []
    faults: list[Fault] = []
    place: dict[int, int] = {}
    position, rewinds = -1, 0
    for sample in arrivals:
        at = place.get(sample.timestamp_ms)
        if at is None:
            if position != len(line) - 1 or (line and sample.timestamp_ms < line[-1].timestamp_ms):
                faults.append(Fault("reordered", series, f"{sample} arrived behind {line[-1]}"))
                continue
            place[sample.timestamp_ms] = position = len(line)
            line.append(sample)
            continue
        if line[at].value != sample.value:
            faults.append(Fault("altered", series, f"{sample} came first as {line[at]}"))
        if at > position + 1:
            faults.append(Fault("reordered", series, f"{sample} was repeated right behind {line[position]}"))
        rewinds += at <= position
        position = at
    if rewinds > max_rewinds:
        faults.append(Fault("repeated", series, f"{rewinds} rewinds, want at most {max_rewinds}"))
    return line, faults


def _against_log(series: Series, log: Sequence[Pushed], line: Sequence[Stored]) -> list[Fault]:
    """Judge values and staleness markers, in order of their timestamps."""
    place = {entry.value: at for at, entry in enumerate(log) if entry.value is not None}
    if len(place) != sum(entry.value is not None for entry in log):
        raise ValueError(f"the writer of {series} sent a value twice, so nothing can be told from it")
    faults: list[Fault] = []
    newest, markers = -1, 0
    for sample in line:
        if sample.value is None:
            markers += 1
            continue
        at = place.get(sample.value)
        if at is None or log[at].fate == "refused":
            faults.append(Fault("unknown", series, f"{sample} was {'refused' if at is not None else 'never pushed'}"))
        elif at <= newest:
            kind: Kind = "repeated" if at == newest else "reordered"
            faults.append(Fault(kind, series, f"{sample} stands behind {log[newest]}"))
        else:
            faults += _markers_between(series, log[newest + 1 : at], markers, live=newest >= 0)
            newest, markers = at, 0
    return faults + _markers_between(series, log[newest + 1 :], markers, live=newest >= 0)


def _markers_between(series: Series, between: Sequence[Pushed], markers: int, *, live: bool) -> list[Fault]:
    """Judge the number of markers between two values: a series that has ended cannot end again."""
    fates = {entry.fate for entry in between if entry.value is None}
    at_least = int(live and "acknowledged" in fates)
    at_most = int(live and bool(fates - {"refused"}))
    if at_least <= markers <= at_most:
        return []
    return [Fault("marker", series, f"{markers} staleness markers, want {at_least} to {at_most}, for {between}")]
