"""The embedded remote_write receiver: takes remote write 1.0 and 2.0, keeps every sample, shows what arrived.

For the demo, for trying things out and for tests. It stores what it gets without judging order or
duplicates; it is no time series database. Nothing of the agent may be imported here but `bridge.wire`.
"""

import asyncio
import html
import json
import math
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiohttp import web
from google.protobuf.message import DecodeError

from bridge._pb import remote_write_v1_pb2 as pb
from bridge._pb import remote_write_v2_pb2 as pb2
from bridge.wire import snappy_block
from bridge.wire.remote_write import STALE_NAN

MAX_BODY_BYTES = 32 << 20
"""Limit on the wire and after decompression: what Prometheus takes."""

MAX_LIMIT = 10_000

_PROTOBUF = "application/x-protobuf"
_V1_TYPES = frozenset({_PROTOBUF, f"{_PROTOBUF};proto=prometheus.writerequest"})
_V2_TYPE = f"{_PROTOBUF};proto=io.prometheus.write.v2.request"
_WRITTEN = "X-Prometheus-Remote-Write-{}-Written"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received_ms INTEGER NOT NULL,
    series TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    value BLOB NOT NULL,
    histogram_count REAL
);
CREATE INDEX IF NOT EXISTS samples_by_series ON samples (series, id);
"""
_COLUMNS = "id, received_ms, series, timestamp_ms, value, histogram_count"

_Row = tuple[int, str, int, bytes, float | None]
_Series = pb.TimeSeries | pb2.TimeSeries


@dataclass(frozen=True, slots=True)
class StoredSample:
    """One sample as it arrived; of a native histogram its sum and count."""

    id: int
    """Counts up in order of arrival, from 1."""
    received_ms: int
    labels: tuple[tuple[str, str], ...]
    timestamp_ms: int
    value: bytes
    """8 bytes, little-endian: SQLite turns every NaN into NULL, and the stale marker is one."""
    histogram_count: float | None

    @property
    def stale(self) -> bool:
        """Whether this ends its series."""
        return self.value == STALE_NAN

    @property
    def value_text(self) -> str:
        """The value as Prometheus writes it, "stale" for a staleness marker."""
        if self.stale:
            return "stale"
        value: float = struct.unpack("<d", self.value)[0]
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "+Inf" if value > 0 else "-Inf"
        return repr(value).removesuffix(".0")


class SampleStore:
    """Samples in one SQLite file (or `:memory:`); use it from one thread."""

    def __init__(self, path: str, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        """Open or create the file; raises sqlite3.Error when that fails."""
        self._now_ms = now_ms
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        self._db.close()

    def add(self, request: pb.WriteRequest | pb2.Request) -> int:
        """Store all samples of a request in one transaction; return their number."""
        rows = list(_rows(request, self._now_ms()))
        self._db.execute("BEGIN")
        try:
            self._db.executemany(
                "INSERT INTO samples (received_ms, series, timestamp_ms, value, histogram_count)"
                " VALUES (?, ?, ?, ?, ?)",
                rows,
            )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return len(rows)

    def samples(self, after_id: int = 0, limit: int = MAX_LIMIT) -> list[StoredSample]:
        """Return samples that arrived behind `after_id`, in order of arrival."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM samples WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - a constant
            (after_id, limit),
        )
        return [_stored(row) for row in rows]

    def count(self) -> int:
        """How many samples have arrived."""
        return int(self._db.execute("SELECT count(*) FROM samples").fetchone()[0])

    def newest(self, limit: int = 500) -> list[StoredSample]:
        """Return the last sample to arrive of each series, newest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM samples"  # noqa: S608 - a constant
            " WHERE id IN (SELECT max(id) FROM samples GROUP BY series) ORDER BY id DESC LIMIT ?",
            (limit,),
        )
        return [_stored(row) for row in rows]


def _rows(request: pb.WriteRequest | pb2.Request, received_ms: int) -> Iterator[_Row]:
    for pairs, series in _series(request):
        labels = json.dumps(pairs, ensure_ascii=False)
        for sample in series.samples:
            yield received_ms, labels, sample.timestamp, struct.pack("<d", sample.value), None
        for histogram in series.histograms:
            count = histogram.count_float if histogram.HasField("count_float") else float(histogram.count_int)
            yield received_ms, labels, histogram.timestamp, struct.pack("<d", histogram.sum), count


def _series(request: pb.WriteRequest | pb2.Request) -> Iterator[tuple[list[tuple[str, str]], _Series]]:
    """Labels and series of either message; ValueError for references to no symbol."""
    if isinstance(request, pb.WriteRequest):
        for first in request.timeseries:
            yield [(label.name, label.value) for label in first.labels], first
        return
    for number, second in enumerate(request.timeseries):
        try:
            strings = [request.symbols[ref] for ref in second.labels_refs]
            yield list(zip(strings[::2], strings[1::2], strict=True)), second
        except (IndexError, ValueError) as error:
            words = f"series {number}: got labels_refs {list(second.labels_refs)}, want pairs of references below"
            raise ValueError(f"{words} {len(request.symbols)}") from error


def _stored(row: tuple[int, int, str, int, bytes, float | None]) -> StoredSample:
    sample_id, received_ms, series, timestamp_ms, value, count = row
    labels = tuple((name, text) for name, text in json.loads(series))
    return StoredSample(sample_id, received_ms, labels, timestamp_ms, value, count)


_STORE: web.AppKey[SampleStore] = web.AppKey("store", SampleStore)


def make_app(store: SampleStore) -> web.Application:
    """Return the receiver's application; the store stays the caller's to close."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[_STORE] = store
    app.router.add_post("/api/v1/write", _write)
    app.router.add_get("/api/v1/samples", _samples)
    app.router.add_get("/", _page)
    return app


async def serve(
    store: SampleStore,
    host: str = "127.0.0.1",
    port: int = 9099,
    started: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve until cancelled. `started` gets the base URL once connections are accepted (port 0: any free port).

    Raises OSError when the address cannot be used.
    """
    runner = web.AppRunner(make_app(store), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_host, bound_port = runner.addresses[0][:2]
        started(f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _write(request: web.Request) -> web.Response:
    encoding = request.headers.get("Content-Encoding", "")
    if encoding != "snappy":
        raise web.HTTPUnsupportedMediaType(text=f"Content-Encoding: got {encoding!r}, want 'snappy'\n")
    content_type = request.headers.get("Content-Type", "").replace(" ", "").lower()
    if content_type not in {*_V1_TYPES, _V2_TYPE}:
        want = f"{_PROTOBUF!r} (remote write 1.0) or {f'{_PROTOBUF};proto={pb2.Request.DESCRIPTOR.full_name}'!r} (2.0)"
        raise web.HTTPUnsupportedMediaType(
            text=f"Content-Type: got {request.headers.get('Content-Type', '')!r}, want {want}\n"
        )
    kind = pb2.Request if content_type == _V2_TYPE else pb.WriteRequest
    try:
        message = kind.FromString(snappy_block.decompress(await request.read(), MAX_BODY_BYTES))
        request.app[_STORE].add(message)
    except (DecodeError, ValueError) as error:
        words = f"body: got no {kind.DESCRIPTOR.full_name}: {error}\n"
        return web.Response(status=400, text=words, headers=_written(kind()))
    return web.Response(status=204, headers=_written(message))


def _written(message: pb2.Request | pb.WriteRequest) -> dict[str, str]:
    """What 2.0 wants to be told, on success and failure alike."""
    if isinstance(message, pb.WriteRequest):
        return {}
    counts = {
        "Samples": sum(len(series.samples) for series in message.timeseries),
        "Histograms": sum(len(series.histograms) for series in message.timeseries),
        "Exemplars": 0,
    }
    return {_WRITTEN.format(name): str(count) for name, count in counts.items()}


async def _samples(request: web.Request) -> web.Response:
    after_id = _query_number(request, "after", 0)
    limit = min(_query_number(request, "limit", MAX_LIMIT), MAX_LIMIT)
    found = request.app[_STORE].samples(after_id, limit)
    return web.json_response({"samples": [_as_json(sample) for sample in found]})


def _query_number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    # 18 digits always fit the 64-bit integers of SQLite.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # noqa: PLR2004
        raise web.HTTPBadRequest(text=f"query parameter {name}: got {text!r}, want a whole number from 0\n")
    return int(text)


def _as_json(sample: StoredSample) -> dict[str, object]:
    """Return the API's shape; the value is text because JSON has no NaN."""
    return {
        "id": sample.id,
        "received_ms": sample.received_ms,
        "labels": dict(sample.labels),
        "timestamp_ms": sample.timestamp_ms,
        "value": sample.value_text,
        "stale": sample.stale,
        "histogram_count": sample.histogram_count,
    }


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<title>remote_write receiver</title>
<style>
body {{ font-family: sans-serif; margin: 2em; }}
td, th {{ padding: 0.2em 1em 0.2em 0; text-align: left; }}
td.series {{ font-family: monospace; overflow-wrap: anywhere; }}
tr.stale {{ color: #777; }}
</style>
</head>
<body>
<h1>What arrived</h1>
<p>The newest sample of each series, newest first. This page renews itself.</p>
<table>
<thead><tr><th>Series</th><th>Value</th><th>Time (UTC)</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


async def _page(request: web.Request) -> web.Response:
    rows = "\n".join(_table_row(sample) for sample in request.app[_STORE].newest())
    page = _PAGE.format(rows=rows or '<tr><td colspan="3">Nothing yet.</td></tr>')
    return web.Response(text=page, content_type="text/html")


def _table_row(sample: StoredSample) -> str:
    labels = [(name, value) for name, value in sample.labels if name != "__name__"]
    pairs = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels)
    series = dict(sample.labels).get("__name__", "") + (f"{{{pairs}}}" if pairs else "")
    css = ' class="stale"' if sample.stale else ""
    return (
        f'<tr{css}><td class="series">{html.escape(series)}</td>'
        f"<td>{html.escape(_shown_value(sample))}</td><td>{html.escape(_shown_time(sample.timestamp_ms))}</td></tr>"
    )


def _shown_value(sample: StoredSample) -> str:
    if sample.histogram_count is None or sample.stale:
        return sample.value_text
    return f"histogram: count {sample.histogram_count:g}, sum {sample.value_text}"


def _shown_time(timestamp_ms: int) -> str:
    parts = time.gmtime(timestamp_ms // 1000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', parts)}.{timestamp_ms % 1000:03d}"
