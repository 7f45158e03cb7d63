from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from bridge._pb import remote_write_v1_pb2 as v1
from bridge._pb import remote_write_v2_pb2 as v2
from bridge.delivery.client import RemoteWriteClient
from bridge.delivery.negotiation import Negotiation
from bridge.delivery.outcome import Delivered, Rejected, RetryLater
from bridge.model import Metadata
from bridge.wire import snappy_block
from tests.delivery.peers import NOW_S, Answer, Receiver, status
from tests.made import encode_series

MESSAGE = "io.prometheus.write.v2.Request"
WRITTEN = {
    "X_Prometheus_Remote_Write_Samples_Written": "1",
    "X_Prometheus_Remote_Write_Histograms_Written": "0",
    "X_Prometheus_Remote_Write_Exemplars_Written": "0",
}
BLOCK = snappy_block.compress(encode_series([("__name__", "n")], 1.5, 1_700_000_000_000))


@dataclass
class Told:
    """What an observer heard."""

    versions: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def speaks(self, target: str, version: str) -> None:
        """Keep the version."""
        assert target == "t"
        self.versions.append(version)

    def written(self, target: str, kind: str, count: int) -> None:
        """Add up."""
        assert target == "t"
        self.counts[kind] += count


def gauge(_: str) -> Metadata:
    """Describe anything."""
    return Metadata("gauge", "Help.")


@dataclass
class Peer:
    """A client that begins with 2.0, and its receiver."""

    client: RemoteWriteClient
    receiver: Receiver
    told: Told
    sent: list[int]

    @property
    def types(self) -> list[str]:
        """The Content-Type of each request."""
        return [headers["Content-Type"] for headers in self.receiver.headers]


@asynccontextmanager
async def peer(*answers: Answer, describe: Callable[[str], Metadata] = gauge) -> AsyncIterator[Peer]:
    """Serve these answers, then 204 without a word."""
    receiver, told, sent = Receiver(list(answers)), Told(), list[int]()
    async with receiver.serving() as url, aiohttp.ClientSession() as session:
        negotiation = Negotiation("t", MESSAGE, describe, told)
        client = RemoteWriteClient(session, url, now_s=lambda: NOW_S, negotiation=negotiation, sent=sent.append)
        yield Peer(client, receiver, told, sent)


async def test_version_2_headers_and_body() -> None:
    """A request of 2.0 has exactly the headers of the spec and says the same as the block."""
    async with peer(status(204, **WRITTEN)) as to:
        assert await to.client.send(BLOCK, 0) == Delivered(204)
    (headers,) = to.receiver.headers
    assert headers["Content-Type"] == "application/x-protobuf;proto=io.prometheus.write.v2.Request"
    assert headers["X-Prometheus-Remote-Write-Version"] == "2.0.0"
    assert headers["Content-Encoding"] == "snappy"
    request = v2.Request.FromString(snappy_block.decompress(to.receiver.bodies[0], 1000))
    (series,) = request.timeseries
    assert [request.symbols[ref] for ref in series.labels_refs] == ["__name__", "n"]
    assert [(sample.value, sample.timestamp) for sample in series.samples] == [(1.5, 1_700_000_000_000)]
    assert series.metadata.type == v2.Metadata.METRIC_TYPE_GAUGE
    assert to.told.versions == ["2.0"]
    assert to.told.counts == {"samples": 1, "histograms": 0, "exemplars": 0}
    assert to.sent == [len(to.receiver.bodies[0])]


@pytest.mark.parametrize("answer", [status(415, "unsupported"), status(204), status(200, "ok")])
async def test_fallback(answer: Answer) -> None:
    """415, and 2xx without the Written headers: the same block goes out as 1.0 at once, and so do all after it."""
    async with peer(answer) as to:
        assert await to.client.send(BLOCK, 0) == Delivered(204)
        assert await to.client.send(BLOCK, 0) == Delivered(204)
    assert to.receiver.bodies[1:] == [BLOCK, BLOCK]
    assert to.types[1:] == ["application/x-protobuf"] * 2
    assert [headers["X-Prometheus-Remote-Write-Version"] for headers in to.receiver.headers] == [
        "2.0.0",
        "0.1.0",
        "0.1.0",
    ]
    assert to.told.versions == ["2.0", "1.0"]


async def test_not_delivered_before_version_1_is() -> None:
    """A 2xx without the Written headers counts for nothing: what the request of 1.0 brings is the outcome."""
    async with peer(status(204), status(503, "later")) as to:
        assert await to.client.send(BLOCK, 0) == RetryLater(None, 503, "later")
        assert await to.client.send(BLOCK, 1) == Delivered(204)
    assert len(to.types) == 3
    assert "proto=" not in to.types[2]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (status(400, "bad", **WRITTEN), Rejected(400, "bad")),
        (status(400, "bad"), Rejected(400, "bad")),
        (status(503, "later"), RetryLater(None, 503, "later")),
        (status(429, "slow"), RetryLater(None, 429, "slow")),
        (status(404, "no"), Rejected(404, "no")),
    ],
)
async def test_no_fallback(answer: Answer, outcome: object) -> None:
    """No other status says anything about the version; 400 least of all."""
    async with peer(answer, status(204, **WRITTEN)) as to:
        assert await to.client.send(BLOCK, 0) == outcome
        assert await to.client.send(BLOCK, 1) == Delivered(204)
    assert len(to.types) == 2
    assert all("proto=" in kind for kind in to.types)
    assert to.told.versions == ["2.0"]


@pytest.mark.parametrize("name", list(WRITTEN))
async def test_one_header_is_enough(name: str) -> None:
    """A receiver that tells one of the three counts speaks 2.0; the others are taken for nothing."""
    async with peer(status(200, **{name: "0"})) as to:
        assert await to.client.send(BLOCK, 0) == Delivered(200)
    assert len(to.types) == 1


@pytest.mark.parametrize("count", ["", "-1", "many", "9" * 30])
async def test_counts_that_are_none(count: str) -> None:
    """A count that cannot be read is not added, and harms nothing."""
    async with peer(status(200, **(WRITTEN | {"X_Prometheus_Remote_Write_Samples_Written": count}))) as to:
        assert await to.client.send(BLOCK, 0) == Delivered(200)
    assert to.told.counts["samples"] == 0


async def test_a_retry_sends_the_same_bytes() -> None:
    """A block that is sent again has the body of the first try, though metadata changed meanwhile."""
    helps = iter(["first", "second"])
    async with peer(
        status(503), status(204, **WRITTEN), status(204, **WRITTEN), describe=lambda _: Metadata("gauge", next(helps))
    ) as to:
        await to.client.send(BLOCK, 0)
        await to.client.send(BLOCK, 1)
        await to.client.send(BLOCK, 0)
    first, again, new = to.receiver.bodies
    assert first == again
    assert b"second" in new


async def test_bodies_of_other_blocks() -> None:
    """Many blocks that wait for their retry do not get each other's bodies."""
    blocks = [snappy_block.compress(encode_series([("__name__", f"n{at}")], 1.0, 1)) for at in range(40)]
    async with peer(*[status(503)] * 40, *[status(204, **WRITTEN)] * 40) as to:
        for attempt in (0, 1):
            for block in blocks:
                await to.client.send(block, attempt)
    assert to.receiver.bodies[:40] == to.receiver.bodies[40:]
    assert len(set(to.receiver.bodies)) == 40


async def test_a_large_block() -> None:
    """A block of megabytes arrives whole as well."""
    body = b"".join(encode_series([("__name__", "n" * 100), ("at", str(at))], at, 1) for at in range(12_000))
    async with peer(status(204, **WRITTEN)) as to:
        assert await to.client.send(snappy_block.compress(body), 0) == Delivered(204)
    request = v2.Request.FromString(snappy_block.decompress(to.receiver.bodies[0], 8 << 20))
    assert [series.samples[0].value for series in request.timeseries] == list(range(12_000))


async def test_a_block_that_is_none() -> None:
    """What cannot be read as 1.0 goes out as it is, and the receiver says what is wrong."""
    block = snappy_block.compress(b"nonsense")
    async with peer(status(400, "no protobuf")) as to:
        assert await to.client.send(block, 0) == Rejected(400, "no protobuf")
    assert to.receiver.bodies == [block]
    assert to.told.versions == ["2.0"]


def histogram(schema: int) -> bytes:
    """A block with a native histogram."""
    name = [v1.Label(name="__name__", value="a in words")]
    series = v1.TimeSeries(labels=name, histograms=[v1.Histogram(count_int=1, schema=schema, timestamp=1)])
    return snappy_block.compress(v1.WriteRequest(timeseries=[series]).SerializeToString())


async def test_custom_buckets_need_version_2() -> None:
    """After a fallback a histogram with custom buckets is refused here, for 1.0 must not carry it; others pass."""
    async with peer(status(415)) as to:
        refused = await to.client.send(histogram(-53), 0)
        assert isinstance(refused, Rejected)
        assert refused.status == 422
        assert await to.client.send(histogram(3), 0) == Delivered(204)
        assert await to.client.send(BLOCK, 0) == Delivered(204)
    assert to.receiver.bodies[1:] == [histogram(3), BLOCK]


async def test_a_target_that_is_known_not_to_take_version_2() -> None:
    """It gets 1.0 from its first request on, custom buckets are refused as ever, and nothing falls back once more."""
    fallen: list[str] = []
    negotiation = Negotiation("t", MESSAGE, gauge, fallen=True, fell_back=lambda: fallen.append("t"))
    receiver = Receiver([status(204), status(415)])
    async with receiver.serving() as url, aiohttp.ClientSession() as session:
        client = RemoteWriteClient(session, url, now_s=lambda: NOW_S, negotiation=negotiation)
        assert await client.send(BLOCK, 0) == Delivered(204)
        assert isinstance(await client.send(histogram(-53), 0), Rejected)
        assert isinstance(await client.send(BLOCK, 0), Rejected)
    assert (receiver.bodies, fallen) == ([BLOCK, BLOCK], [])


async def test_custom_buckets_in_version_2() -> None:
    """In 2.0 they are sent."""
    async with peer(status(204, **WRITTEN)) as to:
        assert await to.client.send(histogram(-53), 0) == Delivered(204)
    request = v2.Request.FromString(snappy_block.decompress(to.receiver.bodies[0], 1000))
    assert request.timeseries[0].histograms[0].schema == -53


async def test_metadata_of_version_1_passes() -> None:
    """A block of 1.0 that holds metadata, which 2.0 has in its series, goes out as it is."""
    metadata = v1.MetricMetadata(metric_family_name="n", help=" i")
    block = snappy_block.compress(v1.WriteRequest(metadata=[metadata]).SerializeToString())
    async with peer(status(204), status(415)) as to:
        assert await to.client.send(block, 0) == Delivered(204)
        assert await to.client.send(BLOCK, 0) == Delivered(204)
        assert await to.client.send(block, 0) == Delivered(204)
    assert [to.receiver.bodies[0], to.receiver.bodies[-1]] == [block, block]
