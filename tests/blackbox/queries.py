"""How to ask Prometheus and VictoriaMetrics what they hold of one job, and the agent what it shows of itself.

Both receivers answer in the same form (at an instant, raw, staleness markers), so that a test names one only where
the two differ. Starting them is `servers`; what a test expects does not belong here.
"""

import http.client
import json
import re
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar
from urllib.parse import urlencode

import snappy

from bridge._pb.remote_write_v1_pb2 import TimeSeries, WriteRequest
from tests.blackbox import delimited as pb
from tests.blackbox.checker import HOLD_INTERVAL_MS
from tests.blackbox.servers import Server

Labels = tuple[tuple[str, str], ...]
"""All labels of a series sorted by name, `__name__` included."""
Point = tuple[int, str]
"""Milliseconds since the epoch, and the value as Python spells that float, so that NaN equals NaN."""

README = Path(__file__).resolve().parents[2] / "README.md"
_T = TypeVar("_T")
_WITHIN_S = 20.0
_POLL_S = 0.02
_STALE_NAN = struct.pack("<Q", 0x7FF0000000000002)
_RESULTS_TAG = 0x0A


class Store(Protocol):
    """A receiver as a user of its API sees it."""

    name: ClassVar[str]

    def instant(self, job: str, at_ms: int) -> dict[Labels, str]:
        """Value of each series of `job` that an instant query for that millisecond returns."""
        ...

    def raw(self, job: str, *, repeats: bool = False) -> dict[Labels, tuple[Point, ...]]:
        """Every stored sample of `job` in time order but for markers, and repeats of the default hold if unasked."""
        ...

    def markers(self, job: str) -> dict[Labels, tuple[int, ...]]:
        """Times (ms) of the staleness markers of `job`, for the series that have one."""
        ...


def readme_queries() -> dict[str, str]:
    """PromQL of README's section "Did the job run?" by the word that its row begins with."""
    section = README.read_text(encoding="utf-8").partition("## Did the job run?\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (\w+): [^|]* \| `([^`]*)` \|$", section, re.MULTILINE))


def _points(points: Iterable[Point], *, repeats: bool) -> tuple[Point, ...]:
    kept: list[Point] = []
    for at_ms, value in points:
        if repeats or not (at_ms % HOLD_INTERVAL_MS == 0 and kept and kept[-1][1] == value):
            kept.append((at_ms, value))
    return tuple(kept)


def now_ms() -> int:
    """Milliseconds since the epoch, cut as the agent cuts them."""
    return time.time_ns() // 1_000_000


def poll(read: Callable[[], _T], want: _T) -> _T:
    """Call `read` until it gives `want` or 20 s have passed; return its last answer, to be asserted on."""
    deadline_s = time.monotonic() + _WITHIN_S
    while (got := read()) != want and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return got


def fetch(server: Server, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """GET `path`, or POST when there is a body (snappy protobuf); return the body of a 2xx answer, fail for others."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    protobuf = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"} if body is not None else {}
    try:
        connection.request("GET" if body is None else "POST", path, body=body, headers={**protobuf, **(headers or {})})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    assert response.status in (200, 204), f"{server.name}{path}: status {response.status}: {content[:500]!r}"
    return content


@dataclass(frozen=True, slots=True)
class PrometheusStore:
    """Prometheus, and what has its API at a prefix, may want a tenant, and adds labels of its own."""

    server: Server
    prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    added: frozenset[str] = frozenset()
    """Labels that are the receiver's own."""
    name: ClassVar[str] = "prometheus"

    def query(self, text: str, at_ms: int) -> list[dict[str, Any]]:
        """Result of an instant query."""
        parameters = {"query": text, "time": _seconds(at_ms)}
        return _query(self.server, parameters, self.prefix, self.headers)

    def instant(self, job: str, at_ms: int) -> dict[Labels, str]:
        """Ask /api/v1/query for an instant vector."""
        return {
            self._labels(series["metric"]): repr(float(series["value"][1]))
            for series in self.query(_selector(job), at_ms)
        }

    def raw(self, job: str, *, repeats: bool = False) -> dict[Labels, tuple[Point, ...]]:
        """Ask /api/v1/query for a range, which leaves out markers and keeps ordinary NaN."""
        # A sample whose time is its group's last plus 1 ms may be ahead of the server's clock.
        return {
            self._labels(series["metric"]): _points(
                ((round(at_s * 1000), repr(float(value))) for at_s, value in series["values"]), repeats=repeats
            )
            for series in self.query(f"{_selector(job)}[1h]", now_ms() + 1000)
        }

    def markers(self, job: str) -> dict[Labels, tuple[int, ...]]:
        """Ask the remote_read API, the only one that hands out markers, and tell them by their exact bits."""
        found = {
            tuple(sorted((label.name, label.value) for label in series.labels)): tuple(
                sample.timestamp for sample in series.samples if struct.pack("<d", sample.value) == _STALE_NAN
            )
            for series in self._remote_read(job)
        }
        return {labels: times for labels, times in found.items() if times}

    def _remote_read(self, job: str) -> Sequence[TimeSeries]:
        # prometheus.ReadRequest: queries 1 {start 1, end 2, matchers 3 {type 1 (0 is =), name 2, value 3}}
        matcher = pb.integer(1, 0) + pb.block(2, "job") + pb.block(3, job)
        query = pb.integer(1, 0) + pb.integer(2, now_ms() + 1000) + pb.block(3, matcher)
        answer = fetch(self.server, f"{self.prefix}/api/v1/read", snappy.compress(pb.block(1, query)), self.headers)
        content = snappy.uncompress(answer)
        # prometheus.ReadResponse has one QueryResult for one query, and that has the shape of a WriteRequest.
        size = next(end for end in range(1, len(content)) if content[end] < 0x80) + 1
        assert content[0] == _RESULTS_TAG
        return WriteRequest.FromString(content[size:]).timeseries

    def _labels(self, metric: dict[str, str]) -> Labels:
        return _labels({name: value for name, value in metric.items() if name not in self.added})


@dataclass(frozen=True, slots=True)
class VictoriaStore:
    """VictoriaMetrics, which shows new data only after a flush."""

    server: Server
    name: ClassVar[str] = "victoria-metrics"

    def instant(self, job: str, at_ms: int) -> dict[Labels, str]:
        """Ask /api/v1/query for an instant vector."""
        self._flush()
        # Without nocache it moves a recent time to at least a second ago, whatever -search.latencyOffset says.
        return _vector(self.server, {"query": _selector(job), "time": _seconds(at_ms), "nocache": "1"})

    def raw(self, job: str, *, repeats: bool = False) -> dict[Labels, tuple[Point, ...]]:
        """Ask /api/v1/export for all samples but the NaNs, which are its markers."""
        kept = {
            labels: _points((point for point in points if point[1] != "nan"), repeats=repeats)
            for labels, points in self._export(job).items()
        }
        return {labels: points for labels, points in kept.items() if points}

    def markers(self, job: str) -> dict[Labels, tuple[int, ...]]:
        """Take the NaNs of /api/v1/export: it drops every other NaN when it comes in (protocol.md section 3.6)."""
        found = {
            labels: tuple(at for at, value in points if value == "nan") for labels, points in self._export(job).items()
        }
        return {labels: times for labels, times in found.items() if times}

    def _export(self, job: str) -> dict[Labels, tuple[Point, ...]]:
        self._flush()
        range_ = {"match[]": _selector(job), "start": "0", "end": _seconds(now_ms() + 1000)}
        lines = fetch(self.server, f"/api/v1/export?{urlencode(range_)}").decode().splitlines()
        return dict(_exported(line) for line in lines)

    def _flush(self) -> None:
        fetch(self.server, "/internal/force_flush")


@dataclass(frozen=True, slots=True)
class Receivers:
    """Both receivers, running."""

    prometheus: Server
    victoria: Server
    message: str = "prometheus.WriteRequest"
    """The `protobuf_message` that both are to get."""

    @property
    def stores(self) -> tuple[Store, Store]:
        """How to ask each."""
        return PrometheusStore(self.prometheus), VictoriaStore(self.victoria)


def shown_ms(server: Server, name: str, job: str) -> int:
    """Read one of the push times of the only group of `job` off /metrics."""
    (value,) = re.findall(rf'^{name}{{.*job="{job}".*}} (\S+)$', fetch(server, "/metrics").decode(), re.MULTILINE)
    return round(float(value) * 1000)


def account(server: Server) -> dict[str, float]:
    """Read the agent's account of samples off /metrics, without the reasons for which none are missing."""
    text = fetch(server, "/metrics").decode()
    found = re.findall(r"^pushbridge_samples_(\S+) (\S+)$", text, re.MULTILINE)
    return {key: float(value) for key, value in found if "reason=" not in key or float(value)}


def latest(raw: dict[Labels, tuple[Point, ...]]) -> dict[Labels, str]:
    """Give the newest value of each series."""
    return {labels: points[-1][1] for labels, points in raw.items()}


def _exported(line: str) -> tuple[Labels, tuple[Point, ...]]:
    """Read one line of VictoriaMetrics' export.

    Old ones write +Inf, -Inf and NaN (null at times) as no JSON has them, new ones infinities as strings.
    """
    metric, _, rest = line.rpartition(',"values":[')
    values, _, times = rest.removesuffix("]}").partition('],"timestamps":[')
    spelled = (repr(float("nan" if value == "null" else value.strip('"'))) for value in values.split(","))
    points = zip(map(int, times.split(",")), spelled, strict=True)
    return _labels(json.loads(metric + "}")["metric"]), tuple(points)


def _vector(server: Server, parameters: dict[str, str]) -> dict[Labels, str]:
    return {_labels(series["metric"]): repr(float(series["value"][1])) for series in _query(server, parameters)}


def _query(
    server: Server, parameters: dict[str, str], prefix: str = "", headers: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    answer = json.loads(fetch(server, f"{prefix}/api/v1/query?{urlencode(parameters)}", headers=headers))
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def _labels(metric: dict[str, str]) -> Labels:
    return tuple(sorted(metric.items()))


def _selector(job: str) -> str:
    return "{job=" + json.dumps(job) + "}"


def _seconds(at_ms: int) -> str:
    return f"{at_ms // 1000}.{at_ms % 1000:03d}"
