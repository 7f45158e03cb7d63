"""Idempotency keys from outside: retries over bad connections, kills and full disks, and each push applied once."""

import gzip
import http.client
import operator
import os
import random
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import snappy

from tests.blackbox.load import Answer, noise, settled_account, wait_for
from tests.blackbox.ports import free_port
from tests.blackbox.relay import CUTS, Relay, read_message
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server, agent
from tests.blackbox.test_crash import killed_at_the_end
from tests.blackbox.test_disk import Tight, groups_of, tight_disk, tight_journal

SEED = int(os.environ.get("RETRY_SEED", "20260611"))
WRITERS = 8
PUSHES = 1250
SHARE_CUT = 0.2
SHARE_AGAIN = 0.05
KILLS_AFTER = (2000, 6000)
ONCE = "--push.default-ttl=0"
"""Nothing is held, so that each value arrives once and no more."""


def ask(
    port: int, method: str, path: str, body: bytes | None = b"a 1\n", **headers: str
) -> tuple[int, str | None, str | None]:
    """Send a push over a connection of its own; gives status, push id and whether it was a repetition."""
    answer = send(port, method, path, body, **headers)
    return answer.status, answer.headers.get("X-Push-Id"), answer.headers.get("Idempotency-Replayed")


def send(port: int, method: str, path: str, body: bytes | None = b"a 1\n", **headers: str) -> Answer:
    """Send a push over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read().decode())


def journal_rows(directory: Path) -> Counter[tuple[str, str]]:
    """How many rows of each job and operation an agent's journal has."""
    connection = sqlite3.connect(directory / "storage" / "journal.db")
    with closing(connection):
        found = connection.execute("SELECT grp, operation, count(*) FROM journal GROUP BY grp, operation")
        return Counter({(group.partition(b"\xff")[2].decode(), what): count for group, what, count in found})


@pytest.mark.parametrize("kill", [True, False], ids=["SIGKILL", "SIGTERM"])
def test_a_repetition_after_a_restart(tmp_path: Path, *, kill: bool) -> None:
    """The agent that comes back answers as the one that went, on both ways through HTTP, for PUT, POST and DELETE."""
    bodies = {
        "identity": b"a 1\n",
        "gzip": gzip.compress(b"a 1\n"),
        "snappy": snappy.StreamCompressor().compress(b"a 1\n"),
    }
    with killed_at_the_end(agent(tmp_path)) as server:
        put = ask(server.port, "PUT", "/metrics/job/j", Idempotency_Key="put")
        post = ask(server.port, "POST", "/metrics/job/j", b"b 1\n", Idempotency_Key="post", Connection="close")
        end = ask(server.port, "DELETE", "/metrics/job/j", None, Idempotency_Key="end")
        assert [(status, replayed) for status, _, replayed in (put, post, end)] == [
            (200, None),
            (200, None),
            (202, None),
        ]
        assert ask(server.port, "PUT", "/metrics/job/j", b"c 3\n")[0] == 200
        before = groups_of(server)
        if not kill:
            assert server.stop() == 0
    with agent(tmp_path) as server:
        for extra in ({}, {"Connection": "close"}, {"Expect": "100-continue"}):
            for encoding, body in bodies.items():
                headers = {"Idempotency-Key": "put", "Content-Encoding": encoding, **extra}
                assert ask(server.port, "PUT", "/metrics/job/j", body, **headers) == (200, put[1], "true")
            again = ask(server.port, "POST", "/metrics/job/j", b"b 1\n", **{"Idempotency-Key": "post", **extra})
            assert again == (200, post[1], "true")
            again = ask(server.port, "DELETE", "/metrics/job/j", None, **{"Idempotency-Key": "end", **extra})
            assert again == (202, end[1], "true")
            for method, other in (("PUT", b"a 2\n"), ("POST", b"a 1\n"), ("DELETE", None)):
                headers = {"Idempotency-Key": "put", **extra}
                assert ask(server.port, method, "/metrics/job/j", other, **headers) == (409, None, None)
        assert groups_of(server) == before
    assert journal_rows(tmp_path) == {("j", "put"): 2, ("j", "post"): 1, ("j", "delete"): 1}


@pytest.mark.parametrize("tight", [tight_disk, tight_journal])
def test_a_push_for_which_there_was_no_room(
    tight: Callable[[Path], AbstractContextManager[Tight]], tmp_path: Path
) -> None:
    """A key whose push got 503 is free: once there is room the same request is the push, and only then a repetition."""
    with tight(tmp_path) as run:
        port = run.server.port

        def push(number: int) -> int:
            body = f'a{{padding="{noise(20_000, number)}"}} {number}\n'.encode()
            status, push_id, replayed = ask(port, "PUT", "/metrics/job/j", body, Idempotency_Key=f"k{number}")
            assert (push_id is None, replayed) == (status != 200, None)
            return status

        assert push(0) == 200
        run.take_room()
        refused = next(number for number in range(1, 1000) if push(number) != 200)
        assert push(refused) == 503
        run.make_room()
        assert wait_for(lambda: push(refused), lambda status: status == 200) == 200
        body = f'a{{padding="{noise(20_000, refused)}"}} {refused}\n'.encode()
        assert ask(port, "PUT", "/metrics/job/j", body, Idempotency_Key=f"k{refused}")[::2] == (200, "true")


@dataclass
class Writer:
    """Pushes numbers to a group of its own, each under a key, as often as it takes to hear that it was taken."""

    name: str
    relay_port: int
    agent_port: int
    chance: random.Random
    gives_up: threading.Event
    ids: dict[int, str] = field(default_factory=dict)
    """Push id of each number."""
    tries: int = 0
    faults: list[str] = field(default_factory=list)
    _connection: socket.socket | None = None

    def run(self) -> None:
        """Push all numbers, and now and then one again that was taken long ago."""
        for number in range(PUSHES):
            self._deliver(number)
            if self.chance.random() < SHARE_AGAIN:
                self._deliver(self.chance.randrange(number + 1))
        self._drop()

    def _request(self, number: int) -> bytes:
        body = b"" if number % 10 == 9 else f"numbered {number}\n".encode()
        method = "PUT" if body else "DELETE"
        head = f"{method} /metrics/job/{self.name} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {number}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def _deliver(self, number: int) -> None:
        request = self._request(number)
        while not self.gives_up.is_set():
            known = number in self.ids
            twice = self.chance.random() < SHARE_AGAIN
            self.tries += 1 + twice
            answer = self._twice(request) if twice else self._once(request)
            if answer is not None:
                self._note(number, answer, known=known)
                return
            time.sleep(0.002)

    def _once(self, request: bytes) -> bytes | None:
        try:
            if self._connection is None:
                self._connection = socket.create_connection(("127.0.0.1", self.relay_port), 30)
            self._connection.sendall(request)
            return read_message(self._connection)
        except OSError:
            self._drop()
            return None

    def _twice(self, request: bytes) -> bytes | None:
        """Send it over two connections at once, as a retry that overtakes the answer does."""
        try:
            with socket.create_connection(("127.0.0.1", self.agent_port), 30) as direct:
                with suppress(OSError):
                    if self._connection is not None:
                        self._connection.sendall(request)
                direct.sendall(request)
                return read_message(direct)
        except OSError:
            return None
        finally:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note(self, number: int, answer: bytes, *, known: bool) -> None:
        head = answer.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
        status, push_id = head[0].split()[1], headers.get("X-Push-Id", "")
        if status != ("202" if number % 10 == 9 else "200") or self.ids.setdefault(number, push_id) != push_id:
            self.faults.append(f"{self.name} {number}: {answer!r}, id was {self.ids.get(number)}")
        if known and headers.get("Idempotency-Replayed") != "true":
            self.faults.append(f"{self.name} {number}: taken before and answered {answer!r}")


def test_each_key_is_applied_once(tmp_path: Path) -> None:
    """10,000 keyed pushes, retried over connections that drop answers, with two kills of the agent, count once each."""
    print(f"RETRY_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    port = free_port()
    with ScriptedReceiver() as receiver, Relay(port, SHARE_CUT, SEED) as relay:

        def start() -> Server:
            return agent(tmp_path, ONCE, config=receiver.config, port=port)

        running, gives_up = start(), threading.Event()
        writers = [
            Writer(f"w{at}", relay.port, port, random.Random(SEED * 100 + at), gives_up) for at in range(WRITERS)
        ]
        threads = [threading.Thread(target=writer.run) for writer in writers]
        for thread in threads:
            thread.start()
        try:
            for enough in KILLS_AFTER:
                taken = wait_for(lambda: sum(len(writer.ids) for writer in writers), partial(operator.le, enough), 120)
                assert taken >= enough
                running.kill()
                running = start()
        except BaseException:
            gives_up.set()
            raise
        finally:
            for thread in threads:
                thread.join()
        final = settled_account(port)
        assert running.stop() == 0
        arrived = numbers_arrived(receiver)
    assert [fault for writer in writers for fault in writer.faults] == []
    assert min(relay.cuts[cut] for cut in CUTS) > PUSHES / 10
    assert sum(writer.tries for writer in writers) > WRITERS * PUSHES * (1 + SHARE_CUT)
    assert (final.balanced, final.pending, final.dropped) == (True, 0, {})
    rows: dict[tuple[str, str], int] = {}
    for writer in writers:
        rows |= {(writer.name, "put"): PUSHES * 9 // 10, (writer.name, "delete"): PUSHES // 10}
        assert len(set(writer.ids.values())) == PUSHES
    assert journal_rows(tmp_path) == rows
    expected = [number for number in range(PUSHES) if number % 10 != 9]
    assert arrived == Counter((writer.name, float(number)) for writer in writers for number in expected)


def numbers_arrived(receiver: ScriptedReceiver) -> Counter[tuple[str, float]]:
    """How many samples there are of each number of each job; a kill may have had a request sent twice, identically."""
    samples = {sample for sample in receiver.stored() if dict(sample.series)["__name__"] == "numbered"}
    return Counter((dict(sample.series)["job"], sample.value) for sample in samples if sample.value is not None)
