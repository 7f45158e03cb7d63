"""A report's way: when it is tried again, when it is spooled, and what is told of it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.ingress.directive import find_directives
from bridge.peer import Peer
from bridge.wrapper import outbox as module
from bridge.wrapper.outbox import Outbox
from bridge.wrapper.report import End, Run, end_report, metrics_report, start_report
from tests.blackbox.ports import free_port
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step

RUN = Run((("job", "the/job"), ("instance", "db 1")), "0" * 32, 1_700_000_000_123, every_s=604800.0)
START, METRICS = start_report(RUN), metrics_report(RUN, b"rows 1\n", 1_700_000_007_000)
END = end_report(RUN, End(1_700_000_007_000, 6.5, 0, 4096))


class Sender:
    """An outbox with what it told and what it spooled."""

    def __init__(self, port: int, spool: Path) -> None:
        self.told: list[str] = []
        self.url = f"http://127.0.0.1:{port}"
        self.spool = spool
        self.outbox = Outbox(Peer(self.url), spool, self.told.append)

    @property
    def names(self) -> list[str]:
        """Names in the spool directory, in order."""
        return sorted(file.name for file in self.spool.iterdir()) if self.spool.is_dir() else []


@pytest.fixture
def agent() -> Iterator[ScriptedReceiver]:
    """Answers as told, and takes everything once it has been told nothing more."""
    with ScriptedReceiver() as receiver:
        yield receiver


@pytest.fixture
def sender(agent: ScriptedReceiver, tmp_path: Path) -> Sender:
    return Sender(agent.port, tmp_path / "spool")


def test_a_report_as_the_agent_sees_it(agent: ScriptedReceiver, sender: Sender) -> None:
    """It is added to the run's group in the text format, with its key and TTL."""
    sender.outbox.send(END)
    (request,) = agent.requests()
    lines = request.head.split("\r\n")
    assert lines[0] == "POST /metrics/job@base64/dGhlL2pvYg/instance/db%201 HTTP/1.1"
    assert {line.lower() for line in lines} >= {
        "content-type: text/plain; version=0.0.4; charset=utf-8",
        f"idempotency-key: run-{'0' * 32}-end",
        "x-push-ttl: 608400s",
    }
    assert request.body == END.body
    assert (sender.told, sender.names) == ([], [])


@pytest.mark.parametrize(
    "step",
    [
        Step(500),
        Step(503, headers=("Retry-After: 1",)),
        Step(429),
        Step(raw=b"SSH-2.0-x\r\n"),
        Step(raw=b"HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\ndi"),
        Step(resets_at=1.0),
    ],
    ids=["500", "503 with Retry-After", "429", "no HTTP", "half an answer", "reset"],
)
def test_passing_trouble_is_tried_again(agent: ScriptedReceiver, sender: Sender, step: Step) -> None:
    """With patience a report outlives an agent's short trouble, and nobody is told."""
    agent.add(step)
    sender.outbox.send(END, 5.0)
    first, second = agent.requests()
    assert first.body == second.body
    assert second.at_s - first.at_s >= (1.0 if step.headers else 0.1)
    assert (sender.told, sender.names) == ([], [])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(400, b"no\n  good\n"), "400: no good"),
        (Step(413, b"too large", headers=("Location: /login",)), "413: too large"),
        (Step(302, headers=("Location: /login",)), "302: redirects to /login"),
    ],
    ids=["400", "413", "302"],
)
def test_a_refusal_is_told(agent: ScriptedReceiver, sender: Sender, step: Step, words: str) -> None:
    """What will be refused again, or answered by somebody who is no agent, is told in one line and not kept."""
    agent.add(step)
    sender.outbox.send(METRICS, 5.0)
    sender.outbox.send(END, 5.0)
    assert len(agent.requests()) == 2
    assert sender.told == [f"{sender.url} refused the metrics of the job with {words}"]
    assert sender.names == []


def test_a_run_without_agent(tmp_path: Path) -> None:
    """Every report becomes a file of its time, in order, for the group and with the key that it would have had."""
    sender = Sender(free_port(), tmp_path / "not/yet/there")
    for report in (START, METRICS, END):
        sender.outbox.send(report)
    assert sender.names == [
        f"1700000000123-{'0' * 32}-start.prom",
        f"1700000007000-{'0' * 32}-metrics.prom",
        f"1700000007001-{'0' * 32}-end.prom",
    ]
    for name, report in zip(sender.names, (START, METRICS, END), strict=True):
        file = sender.spool / name
        first, _, body = file.read_bytes().partition(b"\n")
        assert (find_directives(first).labels, find_directives(first).key) == (RUN.labels, report.key)
        assert body == report.body
        assert (file.stat().st_mtime_ns, file.stat().st_mode & 0o777) == (report.time_ms * 1_000_000, 0o644)
    (line,) = sender.told
    assert line.startswith(f"no agent at {sender.url} (")
    assert line.endswith(f"; the end of the run waits for it in {sender.spool}")


def test_patience_ends(agent: ScriptedReceiver, sender: Sender) -> None:
    """An agent in longer trouble gets a few tries in the time that there is; then the report is kept."""
    agent.add(*[Step(500, b"disk")] * 50)
    started_s = time.monotonic()
    sender.outbox.send(METRICS, 1.0)
    assert time.monotonic() - started_s < 2.0
    assert 2 <= len(agent.requests()) <= 10
    assert len(sender.names) == 1


@pytest.mark.parametrize("after", ["60", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_wish_beyond_the_patience(agent: ScriptedReceiver, sender: Sender, after: str) -> None:
    """An agent that asks for more time than there is is not asked again."""
    agent.add(Step(503, b"full", headers=(f"Retry-After: {after}",)))
    sender.outbox.send(END, 5.0)
    assert len(agent.requests()) == 1
    assert "(it answered 503: full)" in sender.told[0]


def test_patience_is_had_once(agent: ScriptedReceiver, sender: Sender) -> None:
    """After a report in vain the next ones have one try each, until one succeeds."""
    agent.add(Step(500), Step(500), Step(200), Step(500), Step(200))
    for report, names, requests in ((START, 1, 1), (METRICS, 2, 2), (END, 2, 3), (END, 2, 5)):
        sender.outbox.send(report, 0.0 if report is START else 5.0)
        assert (len(sender.names), len(agent.requests())) == (names, requests)


def test_a_silent_agent_does_not_delay(
    agent: ScriptedReceiver, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt ends after its time, also when the network gives no sign of life."""
    monkeypatch.setattr(module, "TRY_S", 0.3)
    agent.add(Step(held=True))
    started_s = time.monotonic()
    sender.outbox.send(START)
    assert 0.3 <= time.monotonic() - started_s < 1.5
    assert len(sender.names) == 1
    agent.stop()


def test_a_trickle_does_not_delay(agent: ScriptedReceiver, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor when it never stops giving them."""
    monkeypatch.setattr(module, "TRY_S", 0.3)
    monkeypatch.setattr(module, "send", lambda *_, **__: time.sleep(2))
    started_s = time.monotonic()
    sender.outbox.send(START)
    assert time.monotonic() - started_s < 1.5
    assert (len(sender.names), agent.requests()) == (1, [])


def test_a_report_that_is_lost_is_told(tmp_path: Path) -> None:
    """Where nothing can be written, one line says what is lost and both reasons, and no half file stays."""
    (tmp_path / "file").touch()
    sender = Sender(free_port(), tmp_path / "file" / "spool")
    sender.outbox.send(START)
    (line,) = sender.told
    assert line.startswith(f"the start of the run is lost: no agent at {sender.url} (")
    assert line.endswith(f"cannot write to {sender.spool}: Not a directory")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be made safe is removed, and its loss told."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    sender = Sender(free_port(), tmp_path)
    sender.outbox.send(END)
    assert sender.names == []
    assert sender.told[0].endswith("No space left on device")
