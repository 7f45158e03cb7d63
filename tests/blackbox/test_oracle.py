"""Puts every request of the table to the real Pushgateway and to the agent, and compares what they answer and keep.

The expected answers come from the Pushgateway at the time of the test; none are written down here.
"""

import http.client
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.blackbox.exposition_diff import Change, PushedSeries, change, pushed_series, read_series
from tests.blackbox.oracle_requests import CASES, POISON_CASES, Case, Request
from tests.blackbox.servers import Server, agent, needs, pushgateway

pytestmark = [pytest.mark.real, needs("prometheus-pushgateway")]

UNREADABLE = (http.client.BAD_REQUEST, http.client.REQUEST_ENTITY_TOO_LARGE, http.client.UNSUPPORTED_MEDIA_TYPE)
# DELETE is carried out after its answer; a push answered after it shows that the queue is past it.
_BARRIER = Request("PUT", "/metrics/job/barrier")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one server did with a case."""

    status: int
    change: Change
    """Difference in pushed series between before the case's setup and after its request."""
    text: str
    """Body of the answer, for the failure message."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run Debian's Pushgateway."""
    with pushgateway(tmp_path_factory.mktemp("pushgateway")) as server:
        yield server


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run the agent without a target, so that /metrics shows the groups."""
    with agent(tmp_path_factory.mktemp("agent")) as server:
        yield server


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_agent_answers_as_pushgateway(case: Case, real: Server, ours: Server) -> None:
    """The agent gives the Pushgateway's status and keeps the same series, or differs as the case says."""
    want, got = run(case, real), run(case, ours)
    if not case.difference:
        assert got.status == want.status, f"got {got.text!r}, want {want.text!r}"
        assert without_counted_failure(got, want) == want.change
        return
    assert got.status == case.want_status, got.text
    if case.want_series is not None:
        assert without_push_times(got.change.written) == read_series(case.want_series)
    differs = (got.status, got.change) != (want.status, want.change)
    assert differs, f"no difference left ({case.difference}): drop it from the table"


@pytest.mark.parametrize("case", POISON_CASES, ids=[case.name for case in POISON_CASES])
def test_request_that_spoils_a_pushgateway(case: Case, ours: Server, tmp_path: Path) -> None:
    """The agent answers as the Pushgateway does, keeps nothing of a refused push, and goes on taking others."""
    with pushgateway(tmp_path) as real:
        want, want_text = send(case.request, real)
    outcome = run(case, ours)
    assert outcome.status == want, f"got {outcome.text!r}, want {want_text!r}"
    if want >= http.client.BAD_REQUEST:
        assert without_push_times(outcome.change.written) == {}


def run(case: Case, server: Server) -> Outcome:
    """Send the case's setup and request to `server` and say what came of it."""
    send(_BARRIER, server)
    before = pushed_series(server.url)
    for request in case.setup:
        send(request, server)
    status, text = send(case.request, server)
    barrier_status, barrier_text = send(_BARRIER, server)
    assert barrier_status == http.client.OK, f"{server.name} takes no pushes after {case.name}: {barrier_text}"
    return Outcome(status, change(before, pushed_series(server.url)), text)


def send(request: Request, server: Server) -> tuple[int, str]:
    """Send one request with its path as written, following no redirect; return status and start of the body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in request.headers:
            connection.putheader(name, value)
        if request.body or request.method in ("PUT", "POST", "PATCH", "PUSH"):
            connection.putheader("Content-Length", str(len(request.body)))
        connection.connect()
        # Pushgateway resets a connection that it answers before it has read what comes behind the head.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        connection.endheaders(request.body)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        response = connection.getresponse()
        return response.status, response.read(500).decode(errors="replace")
    finally:
        connection.close()


def without_counted_failure(got: Outcome, want: Outcome) -> Change:
    """Leave out the failure time of a push that did not parse: ours has it by intent (issue 2), the Pushgateway not.

    The one difference that concerns many rows, so it stands here and not in each of them.
    """
    if got.status not in UNREADABLE or want.change.written or not got.change.written:
        return got.change
    names = {name for name, _ in got.change.written}
    assert names <= {"push_time_seconds", "push_failure_time_seconds"}
    assert "push_failure_time_seconds" in names
    return Change({}, got.change.gone)


def without_push_times(series: PushedSeries) -> PushedSeries:
    """Leave out the two series that every group has."""
    times = ("push_time_seconds", "push_failure_time_seconds")
    return {key: value for key, value in series.items() if key[0] not in times}
