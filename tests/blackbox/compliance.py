"""What an agent sent in one run, read alike from both versions of remote_write, and the pushes that made it send.

Each case of the compliance suites pushes to a group of its own: `instance` is the case's name. Expectations do not
belong here.
"""

import http.client
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bridge._pb import remote_write_v1_pb2 as pb
from bridge._pb import remote_write_v2_pb2 as pb2
from tests.blackbox import load
from tests.blackbox.scripted_receiver import Request, ScriptedReceiver, labelled
from tests.blackbox.servers import Server

MESSAGES = {"1.0": "prometheus.WriteRequest", "2.0": "io.prometheus.write.v2.Request"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PUSH_TIMES = ("push_time_seconds", "push_failure_time_seconds")


@dataclass(frozen=True, slots=True)
class Point:
    """One sample."""

    bits: bytes
    timestamp_ms: int
    start_ms: int
    """0 where there is none, as always in 1.0."""

    @property
    def value(self) -> float:
        """As a number."""
        value: float = struct.unpack("<d", self.bits)[0]
        return value


@dataclass(frozen=True, slots=True)
class Traced:
    """One exemplar."""

    labels: tuple[tuple[str, str], ...]
    value: float
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Sent:
    """One series of one request."""

    labels: tuple[tuple[str, str], ...]
    """In the order of the wire."""
    points: tuple[Point, ...]
    histograms: tuple[pb.Histogram | pb2.Histogram, ...] = ()
    exemplars: tuple[Traced, ...] = ()
    type: int = 0
    help: str = ""
    unit: str = ""

    @property
    def name(self) -> str:
        """The metric's name, "" for none."""
        return dict(self.labels).get("__name__", "")

    def label(self, name: str) -> str:
        """A label's value, "" for none."""
        return dict(self.labels).get(name, "")


def sent_by(request: Request) -> list[Sent]:
    """Every series of a request."""
    assert request.message is not None
    return [_sent(request.message, labels, series) for labels, series in labelled(request.message)]


def _sent(
    message: pb.WriteRequest | pb2.Request,
    labels: tuple[tuple[str, str], ...],
    series: pb.TimeSeries | pb2.TimeSeries,
) -> Sent:
    points = tuple(
        Point(struct.pack("<d", one.value), one.timestamp, one.start_timestamp if isinstance(one, pb2.Sample) else 0)
        for one in series.samples
    )
    traced = tuple(Traced(_exemplar_labels(message, one), one.value, one.timestamp) for one in series.exemplars)
    if isinstance(series, pb.TimeSeries) or isinstance(message, pb.WriteRequest):
        return Sent(labels, points, tuple(series.histograms), traced)
    about = series.metadata
    return Sent(
        labels,
        points,
        tuple(series.histograms),
        traced,
        about.type,
        message.symbols[about.help_ref],
        message.symbols[about.unit_ref],
    )


def _exemplar_labels(
    message: pb.WriteRequest | pb2.Request, exemplar: pb.Exemplar | pb2.Exemplar
) -> tuple[tuple[str, str], ...]:
    if isinstance(exemplar, pb.Exemplar):
        return tuple((label.name, label.value) for label in exemplar.labels)
    assert isinstance(message, pb2.Request)
    strings = [message.symbols[ref] for ref in exemplar.labels_refs]
    return tuple(zip(strings[::2], strings[1::2], strict=True))


class Run:
    """An agent, its receiver and what it sent so far."""

    def __init__(self, version: str, receiver: ScriptedReceiver, server: Server) -> None:
        """Look at these, which run."""
        self.version = version
        self.receiver = receiver
        self.server = server

    def push(
        self, case: str, body: str | bytes, content_type: str = "text/plain; version=0.0.4", method: str = "PUT"
    ) -> int:
        """Push to the group of a case; give the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            path = f"/metrics/job/test/instance/{case}"
            connection.request(
                method, path, body.encode() if isinstance(body, str) else body, {"Content-Type": content_type}
            )
            return connection.getresponse().status
        finally:
            connection.close()

    def settle(self) -> load.Account:
        """Wait until the agent has nothing to send."""
        account = load.settled_account(self.server.port)
        assert account.pending == 0
        return account


@dataclass(frozen=True)
class Trace:
    """All requests of a run that is over."""

    version: str
    requests: tuple[Request, ...]
    statuses: dict[str, int]
    """Of the pushes, by case."""

    @cached_property
    def series(self) -> list[Sent]:
        """Every series of every request, in order."""
        return [one for request in self.requests for one in sent_by(request)]

    def of(self, case: str) -> list[Sent]:
        """What a case pushed, without its push times, in order; at least one series."""
        found = [one for one in self.series if one.label("instance") == case and one.name not in PUSH_TIMES]
        assert found, f"nothing arrived of {case}"
        return found

    def one(self, case: str, name: str) -> Sent:
        """The first series of a name that a case pushed."""
        return next(one for one in self.of(case) if one.name == name)

    def messages(self) -> Iterator[pb2.Request]:
        """Every request of 2.0."""
        for request in self.requests:
            assert isinstance(request.message, pb2.Request)
            yield request.message
