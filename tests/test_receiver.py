import asyncio
import gzip
import math
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from bridge._pb import remote_write_v1_pb2 as pb
from bridge._pb import remote_write_v2_pb2 as pb2
from bridge.receiver import SampleStore, make_app, serve
from bridge.wire import snappy_block
from bridge.wire.remote_write import STALE_NAN, encode_point, label_bytes
from tests.made import encode_series

HEADERS = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
Client = TestClient[Request, Application]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    store = SampleStore(":memory:", now_ms=lambda: 42)
    async with TestClient(TestServer(make_app(store))) as started:
        yield started
    store.close()


async def write(client: Client, body: bytes, **headers: str) -> tuple[int, str]:
    sent = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post("/api/v1/write", data=body, headers=sent) as response:
        return response.status, await response.text()


async def samples(client: Client, query: str = "") -> list[dict[str, object]]:
    async with client.get("/api/v1/samples" + query) as response:
        assert response.status == 200
        found: list[dict[str, object]] = (await response.json())["samples"]
        return found


async def test_stores_what_arrives(client: Client) -> None:
    """Samples are stored with labels, value and time, and can be read back from any point on."""
    labels = [("__name__", "up"), ("job", "a")]
    body = b"".join(encode_series(labels, value, 1000 + i) for i, value in enumerate((1.0, -2.5, math.inf, math.nan)))
    assert await write(client, snappy_block.compress(body)) == (204, "")
    found = await samples(client)
    assert [sample["value"] for sample in found] == ["1", "-2.5", "+Inf", "NaN"]
    assert found[0] == {
        "id": 1,
        "received_ms": 42,
        "labels": dict(labels),
        "timestamp_ms": 1000,
        "value": "1",
        "stale": False,
        "histogram_count": None,
    }
    assert [sample["id"] for sample in await samples(client, "?after=1&limit=2")] == [2, 3]


async def test_stale_markers_are_told_apart(client: Client) -> None:
    """Only the exact staleness bits are shown as stale, in the API and on the page."""
    body = encode_series([("__name__", "n")], math.nan, 1)
    body += encode_point(label_bytes([("__name__", "s")]), STALE_NAN, 2)
    await write(client, snappy_block.compress(body))
    assert [(sample["value"], sample["stale"]) for sample in await samples(client)] == [("NaN", False), ("stale", True)]
    async with client.get("/") as response:
        assert '<td class="series">s</td><td>stale</td>' in await response.text()


async def test_native_histograms(client: Client) -> None:
    """A native histogram is stored with count and sum."""
    series = pb.TimeSeries(labels=[pb.Label(name="__name__", value="h")])
    series.histograms.add(count_int=3, sum=1.5, timestamp=7)
    body = pb.WriteRequest(timeseries=[series]).SerializeToString()
    assert (await write(client, snappy_block.compress(body)))[0] == 204
    (found,) = await samples(client)
    assert (found["value"], found["histogram_count"], found["timestamp_ms"]) == ("1.5", 3.0, 7)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "snappy block"),
        (b"\xff\x06\x00\x00sNaPpY", "snappy block"),
        (b"\xff\xff\xff\xff\x0f", "want at most 33554432"),
        (snappy_block.compress(b"\x0a\x05ab"), "got no prometheus.WriteRequest"),
        (snappy_block.compress(b"\x0a\x06\x0a\x04\x0a\x02\xff\xfe"), "got no prometheus.WriteRequest"),
    ],
)
async def test_bad_bodies(client: Client, body: bytes, message: str) -> None:
    """Bad snappy and bad protobuf are 400 with the reason, and store nothing."""
    code, text = await write(client, body)
    assert code == 400
    assert message in text
    assert await samples(client) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Encoding": "gzip"},
        {"Content_Encoding": "identity"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-protobuf;proto=io.prometheus.write.v3.Request"},
    ],
)
async def test_other_encodings(client: Client, headers: dict[str, str]) -> None:
    """Any other encoding or message is 415, so that a sender never believes that it was stored."""
    body = gzip.compress(b"") if headers.get("Content_Encoding") == "gzip" else b"\x00"
    code, text = await write(client, body, **headers)
    assert code == 415
    assert "want" in text


@pytest.mark.parametrize("query", ["?after=-1", "?after=x", "?limit=1.5", "?after=" + "9" * 30])
async def test_bad_queries(client: Client, query: str) -> None:
    """A query that is no whole number is 400."""
    async with client.get("/api/v1/samples" + query) as response:
        assert response.status == 400


async def test_page_escapes_and_shows_the_newest(client: Client) -> None:
    """The page shows one row per series with its last value, and pushed text cannot become markup."""
    labels = [("__name__", "m"), ("x", "<script>alert('1')</script>")]
    for value in (1.0, 2.0):
        await write(client, snappy_block.compress(encode_series(labels, value, 1_700_000_000_123)))
    async with client.get("/") as response:
        page = await response.text()
        assert response.content_type == "text/html"
    assert page.count('class="series">m{x=') == 1
    assert "<td>2</td><td>2023-11-14 22:13:20.123</td>" in page
    assert "<script" not in page
    assert 'http-equiv="refresh"' in page


async def test_odd_times_do_not_break_the_page(client: Client) -> None:
    """A timestamp beyond the calendar of most programs is still shown."""
    await write(client, snappy_block.compress(encode_series([("__name__", "m")], 1, 2**63 - 1)))
    async with client.get("/") as response:
        assert "292278994-08-17 07:12:55.807" in await response.text()


def test_store_keeps_values_across_reopening(tmp_path: Path) -> None:
    """A file holds exact bits, staleness marker included, after it is closed and opened again."""
    path = str(tmp_path / "samples.db")
    store = SampleStore(path)
    body = encode_point(label_bytes([("__name__", "s")]), STALE_NAN, 2) + encode_series([("__name__", "s")], 0.1, 3)
    assert store.add(pb.WriteRequest.FromString(body)) == 2
    store.close()
    again = SampleStore(path)
    assert [sample.value for sample in again.samples()] == [STALE_NAN, struct.pack("<d", 0.1)]
    assert [sample.id for sample in again.newest()] == [2]
    again.close()


async def test_serve_until_cancelled() -> None:
    """Serve tells its address, answers there, and frees it when cancelled."""
    store = SampleStore(":memory:")
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(store, port=0, started=url.set_result))
    async with aiohttp.ClientSession() as session:
        async with session.get(await url) as response:
            assert "Nothing yet" in await response.text()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(url.result())
    store.close()


V2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"


async def write_v2(client: Client, request: pb2.Request) -> tuple[int, str, list[str | None]]:
    """Send a request of 2.0; give the status, the text and the three Written headers."""
    body = snappy_block.compress(request.SerializeToString())
    async with client.post("/api/v1/write", data=body, headers=HEADERS | {"Content-Type": V2}) as response:
        names = ("Samples", "Histograms", "Exemplars")
        said = [response.headers.get(f"X-Prometheus-Remote-Write-{name}-Written") for name in names]
        return response.status, await response.text(), said


async def test_version_2(client: Client) -> None:
    """A request of 2.0 is stored as its series of 1.0 would be, and answered with what was written."""
    series = [
        pb2.TimeSeries(labels_refs=[1, 2, 3, 4], samples=[pb2.Sample(value=1.5, timestamp=7)]),
        pb2.TimeSeries(labels_refs=[1, 5], histograms=[pb2.Histogram(count_int=3, sum=2.5, timestamp=8)]),
    ]
    request = pb2.Request(symbols=["", "__name__", "up", "job", "a", "h"], timeseries=series)
    assert await write_v2(client, request) == (204, "", ["1", "1", "0"])
    found = await samples(client)
    assert [(one["labels"], one["value"], one["timestamp_ms"], one["histogram_count"]) for one in found] == [
        ({"__name__": "up", "job": "a"}, "1.5", 7, None),
        ({"__name__": "h"}, "2.5", 8, 3.0),
    ]


@pytest.mark.parametrize("refs", [[0], [0, 1, 2], [0, 9]])
async def test_version_2_with_bad_references(client: Client, refs: list[int]) -> None:
    """References to no symbol, or of odd number, are 400, and nothing of their request is stored."""
    good = pb2.TimeSeries(labels_refs=[1, 2], samples=[pb2.Sample(value=1.5, timestamp=7)])
    bad = pb2.TimeSeries(labels_refs=refs, samples=[pb2.Sample(value=1.5, timestamp=7)])
    request = pb2.Request(symbols=["", "__name__", "up"], timeseries=[good, bad])
    code, text, said = await write_v2(client, request)
    assert (code, said) == (400, ["0", "0", "0"])
    assert "series 1: got labels_refs" in text
    assert await samples(client) == []


async def test_version_1_is_told_nothing_of_what_was_written(client: Client) -> None:
    """The Written headers belong to 2.0."""
    async with client.post("/api/v1/write", data=snappy_block.compress(b""), headers=HEADERS) as response:
        assert not [name for name in response.headers if name.endswith("-Written")]
