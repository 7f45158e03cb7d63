"""Receipts from outside: a real agent and receivers that take, refuse or are away, restarts, and a busy journal."""

import concurrent.futures
import http.client
import json
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.blackbox.load import Client, Load, Push, noise, one_value, request, wait_for
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step
from tests.blackbox.servers import Server, agent

MIB = 1 << 20
WAL_LIMIT_BYTES = 16 * MIB
"""What the journal lets its write-ahead log keep; a reader that stays open would have it grow without end."""
ENOUGH = 3 * WAL_LIMIT_BYTES // 40_000
"""Pushes of 20 KB, once as a row and once as their group's state, that fill the log three times."""
REFUSES = (Step(status=400, words=b"out of bounds: 2 samples"),) * 100


def config(**receivers: ScriptedReceiver) -> str:
    """An agent's configuration with named targets."""
    targets = ", ".join(f"{{url: '{receiver.url}', name: {name}}}" for name, receiver in receivers.items())
    return f"remote_write: [{targets}]\n"


def put(server: Server, query: str = "", job: str = "j") -> tuple[int, str, dict[str, Any]]:
    """Push; gives status, push id and the targets' states, if there are any."""
    answer = request(server.port, "PUT", f"/metrics/job/{job}{query}", b"a 1\n")
    states = json.loads(answer.text)["data"]["targets"] if answer.text else {}
    return answer.status, answer.headers["X-Push-Id"], states


def receipt(server: Server, push_id: str) -> dict[str, Any]:
    """Look a push up."""
    answer = request(server.port, "GET", f"/api/v1/pushes/{push_id}")
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.text)["data"]
    return found


def states(found: dict[str, Any]) -> dict[str, str]:
    """The state of each target in a receipt."""
    return {name: target["state"] for name, target in found["targets"].items()}


def test_one_of_two_targets_is_down(tmp_path: Path) -> None:
    """A waiting push is 202 when the time is up, 200 when the other target is back; a restart changes no receipt."""
    with ScriptedReceiver() as up, ScriptedReceiver(up=False) as down:
        targets = config(up=up, down=down)
        with agent(tmp_path, config=targets) as server:
            status, push_id, found = put(server, "?wait=delivered&timeout=1s")
            assert (status, found["up"]["state"], found["down"]) == (202, "delivered", {"state": "pending"})
            assert states(receipt(server, push_id)) == {"up": "delivered", "down": "pending"}
            server.kill()
        with agent(tmp_path, config=targets) as server:
            assert states(receipt(server, push_id)) == {"up": "delivered", "down": "pending"}
            down.start()
            assert put(server, "?wait=delivered")[0] == 200
            before = receipt(server, push_id)
            assert states(before) == {"up": "delivered", "down": "delivered"}
        with agent(tmp_path, config=targets) as server:
            assert receipt(server, push_id) == before
            (newest, oldest) = json.loads(request(server.port, "GET", "/api/v1/pushes?job=j").text)["data"]
            assert (oldest, states(newest)) == (before, states(before))


def test_a_target_refuses_for_good(tmp_path: Path) -> None:
    """A waiting push is 502 with the receiver's words, the receipt keeps them, and the next push is not held up."""
    with ScriptedReceiver() as takes, ScriptedReceiver(*REFUSES) as refuses:
        targets = config(takes=takes, refuses=refuses)
        with agent(tmp_path, config=targets) as server:
            status, push_id, found = put(server, "?wait=delivered")
            assert (status, found["takes"]["state"], found["refuses"]["state"]) == (502, "delivered", "refused")
            assert "out of bounds: 2 samples" in found["refuses"]["words"]
            assert put(server, "?wait=delivered")[0] == 502
        with agent(tmp_path, config=targets) as server:
            assert receipt(server, push_id)["targets"] == found


def test_an_agent_that_stops_answers_those_who_wait(tmp_path: Path) -> None:
    """SIGTERM ends the waiting: each client is answered 202, on both ways through HTTP, and the agent ends with 0."""
    with ScriptedReceiver(up=False) as away, agent(tmp_path, config=away.config) as server:

        def wait(number: int) -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            with closing(connection):
                headers = {"Connection": "close"} if number % 2 else {}
                connection.request("PUT", f"/metrics/job/j{number}?wait=delivered&timeout=5m", b"a 1\n", headers)
                response = connection.getresponse()
                return response.status, json.loads(response.read())["data"]["targets"]

        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            answers = [pool.submit(wait, number) for number in range(10)]
            pushes = wait_for(
                lambda: request(server.port, "GET", "/api/v1/pushes").text.count('"id"'), lambda n: n == 10
            )
            assert pushes == 10
            assert not any(answer.done() for answer in answers)
            assert server.stop() == 0
            pending = {"target": {"state": "pending"}}
            assert [answer.result() for answer in answers] == [(202, pending)] * 10


def test_waiting_does_not_slow_others(tmp_path: Path) -> None:
    """While 200 clients wait for a target that is down, a thousand pushes are taken; then all have their proof."""
    with ScriptedReceiver(up=False) as target, agent(tmp_path, config=target.config) as server:
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(200)]
        for number, connection in enumerate(connections):
            connection.request("PUT", f"/metrics/job/w{number}?wait=delivered&timeout=1m", b"a 1\n")
        with Client(server.port) as client:
            for number in range(1000):
                client.must_accept(one_value("quick", number))
        target.start()
        answers = [connection.getresponse() for connection in connections]
        assert {answer.status for answer in answers} == {200}
        for answer, connection in zip(answers, connections, strict=True):
            assert json.loads(answer.read())["data"]["targets"]["target"]["state"] == "delivered"
            connection.close()


def bulky(writer: int, number: int) -> Push:
    """A push of 20 KB that does not compress."""
    return one_value(f"bulk{writer}", number, padding=noise(20_000, number))


def test_readers_let_the_log_be_reset(tmp_path: Path) -> None:
    """Under heavy writing, with receipts and lists asked for all the time, the write-ahead log keeps to its limit."""
    with ScriptedReceiver() as receiver, agent(tmp_path, config=receiver.config) as server:
        wal = tmp_path / "storage" / "journal.db-wal"
        sizes: list[int] = []
        over = threading.Event()

        def ask(path: str) -> int:
            asked = 0
            while not over.wait(0.02):
                answer = request(server.port, "GET", path)
                assert answer.status == 200, answer
                asked += 1
            return asked

        with concurrent.futures.ThreadPoolExecutor(3) as pool, Load(server.port, writers=4, plan=bulky) as load:
            _, push_id, _ = put(server, "?wait=delivered")
            paths = ("?limit=1000", "?job=nobody", f"/{push_id}")
            readers = [pool.submit(ask, f"/api/v1/pushes{path}") for path in paths]
            deadline_s = time.monotonic() + 60
            while load.acknowledged() < ENOUGH and time.monotonic() < deadline_s:
                sizes.append(wal.stat().st_size)
                time.sleep(0.05)
            load.stop()
            over.set()
            assert all(reader.result() > 10 for reader in readers)
        assert load.acknowledged() >= ENOUGH
        assert max(sizes) <= WAL_LIMIT_BYTES
