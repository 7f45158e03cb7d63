"""Several targets with a life of their own: added late, removed, moved, and one that is dead beside one that lives."""

import re
import time
from pathlib import Path

import pytest

from tests.blackbox.checker import judge
from tests.blackbox.load import (
    Client,
    metrics,
    numbers,
    one_value,
    push_next,
    ready,
    request,
    wait_for,
)
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server, agent
from tests.blackbox.test_receipts import config


def put(server: Server, number: int) -> None:
    assert request(server.port, "PUT", "/metrics/job/j", f"a {number}\n".encode()).status == 200


def account(server: Server, target: str) -> dict[str, float]:
    """One target's account, reasons for which nothing was dropped left out, and what was accepted in all."""
    values = metrics(server.port)
    found = {"accepted": values["pushbridge_samples_accepted_total"]}
    for key, value in values.items():
        match = re.fullmatch(rf'pushbridge_samples_(\w+?)(?:_total)?\{{(?:reason="(\w+)",)?target="{target}"\}}', key)
        match = match or re.fullmatch(
            rf'pushbridge_samples_(\w+?)(?:_total)?\{{target="{target}",reason="(\w+)"\}}', key
        )
        if match and (match[1] in {"delivered", "pending"} or (match[1] == "dropped" and value)):
            found[match[2] or match[1]] = value
    return found


def settled(server: Server, target: str) -> dict[str, float]:
    return wait_for(lambda: account(server, target), lambda found: found["pending"] == 0)


def values(receiver: ScriptedReceiver, name: str = "a") -> list[float | None]:
    return [sample.value for sample in receiver.stored() if dict(sample.series)["__name__"] == name]


def log_lines(server: Server, event: str) -> list[str]:
    lines = server.log_path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if f"event={event} " in line]


def test_a_target_that_is_added_starts_now(tmp_path: Path) -> None:
    """It gets what is pushed from then on, and its account begins there."""
    with ScriptedReceiver() as old, ScriptedReceiver() as new:
        with agent(tmp_path, config=config(old=old)) as server:
            put(server, 1)
            assert settled(server, "old") == {"accepted": 3, "delivered": 3, "pending": 0}
        with agent(tmp_path, config=config(old=old, new=new)) as server:
            put(server, 2)
            assert settled(server, "new") == {"accepted": 6, "delivered": 3, "pending": 0}
            assert settled(server, "old") == {"accepted": 6, "delivered": 6, "pending": 0}
            assert (values(old), values(new)) == ([1.0, 2.0], [2.0])


def test_a_target_that_is_added_starts_in_the_past(tmp_path: Path) -> None:
    """With --remote-write.since it gets what the journal has from then on, in order and once."""
    with ScriptedReceiver() as old, ScriptedReceiver() as new:
        with agent(tmp_path, config=config(old=old)) as server:
            put(server, 1)
            time.sleep(0.01)
            between_ms = time.time_ns() // 1_000_000
            time.sleep(0.01)
            put(server, 2)
            put(server, 3)
            settled(server, "old")
        since = f"--remote-write.since={between_ms / 1000:.3f}"
        for _ in range(2):
            with agent(tmp_path, since, config=config(old=old, new=new)) as server:
                put(server, 4)
                found = settled(server, "new")
                assert found["delivered"] == found["accepted"] - 3
                assert settled(server, "old")["delivered"] == found["accepted"]
        assert (values(old), values(new)) == ([1.0, 2.0, 3.0, 4.0, 4.0], [2.0, 3.0, 4.0, 4.0])
        (line,) = log_lines(server, "target_added target=new")
        assert "samples=6" in line


def test_a_target_that_is_added_gets_all_that_is_left(tmp_path: Path) -> None:
    """A time before the journal's beginning gives everything that it has."""
    with ScriptedReceiver() as old, ScriptedReceiver() as new:
        with agent(tmp_path, config=config(old=old)) as server:
            put(server, 1)
            settled(server, "old")
        with agent(tmp_path, "--remote-write.since=6h", config=config(old=old, new=new)) as server:
            assert settled(server, "new") == {"accepted": 3, "delivered": 3, "pending": 0}
            assert values(new) == [1.0]


def test_a_target_that_is_removed_is_forgotten_with_a_warning(tmp_path: Path) -> None:
    """The warning says how much it did not get; the journal waits for it no longer; added again it is new."""
    with ScriptedReceiver() as live, ScriptedReceiver(up=False) as gone:
        with agent(tmp_path, config=config(live=live, gone=gone)) as server:
            put(server, 1)
            put(server, 2)
            settled(server, "live")
        with agent(tmp_path, config=config(live=live)) as server:
            (line,) = log_lines(server, "target_forgotten")
            assert "level=warning" in line
            assert "target=gone unsent_samples=6" in line
            assert settled(server, "live")["delivered"] == 6
            assert account(server, "gone") == {"accepted": 6}
        gone.start()
        with agent(tmp_path, config=config(live=live, gone=gone)) as server:
            put(server, 3)
            assert settled(server, "gone") == {"accepted": 9, "delivered": 3, "pending": 0}


def test_a_target_that_moves_keeps_its_place(tmp_path: Path) -> None:
    """The same name under another URL gets what the old one had not confirmed."""
    with ScriptedReceiver() as first, ScriptedReceiver() as second:
        with agent(tmp_path, config=config(t=first)) as server:
            put(server, 1)
            settled(server, "t")
            first.stop()
            put(server, 2)
        with agent(tmp_path, config=config(t=second)) as server:
            assert settled(server, "t") == {"accepted": 6, "delivered": 6, "pending": 0}
            assert (values(first), values(second)) == ([1.0], [2.0])
            assert log_lines(server, "target_forgotten") == []


def test_a_dead_target_does_not_slow_the_other(tmp_path: Path) -> None:
    """Each push is at the live target as soon as it would be without the dead one, and nothing is lost on either."""
    with (
        ScriptedReceiver() as live,
        ScriptedReceiver(up=False) as dead,
        agent(tmp_path, config=config(dead=dead, live=live)) as server,
        Client(server.port) as client,
    ):
        waits_s = []
        for number in range(1, 41):
            started_s = time.monotonic()
            client.must_accept(one_value("j", number))
            wait_for(lambda: values(live, "numbered")[-1:], [float(number)].__eq__)
            waits_s.append(time.monotonic() - started_s)
        assert sorted(waits_s)[len(waits_s) // 2] < 0.5
        assert judge(client.log, live.stored()) == []
        found = account(server, "dead")
        assert (found["pending"], found["delivered"]) == (found["accepted"], 0)
        dead.start()
        assert settled(server, "dead")["delivered"] == found["accepted"]
        assert judge(client.log, dead.stored()) == []


@pytest.mark.parametrize("policy", ["reject", "drop_oldest"])
def test_a_dead_target_that_fills_the_journal_is_named(tmp_path: Path, policy: str) -> None:
    """Refusals, readiness, log and metric say who holds the rows; what is dropped is dropped from its account alone."""
    flags = ("--storage.max-bytes=1MiB", f"--storage.when-full={policy}")
    with (
        ScriptedReceiver() as live,
        ScriptedReceiver(up=False) as dead,
        agent(tmp_path, *flags, config=config(dead=dead, live=live)) as server,
        Client(server.port) as client,
    ):
        answer, number = push_next(client), 1
        while answer.status == 200 and number < 80:
            settled(server, "live")
            answer, number = push_next(client), number + 1
        settled(server, "live")
        full = metrics(server.port)
        assert full['pushbridge_journal_held_by{target="dead"}'] == 1
        assert full['pushbridge_journal_held_by{target="live"}'] == 0
        assert (account(server, "live")["pending"], "journal_full" in account(server, "live")) == (0, False)
        assert judge(client.log, numbers(live.stored())) == []
        if policy == "reject":
            assert answer.status == 503
            assert answer.text.endswith("; its oldest pushes wait for target dead\n")
            assert request(server.port, "GET", "/-/ready").text == answer.text
            (line,) = log_lines(server, "journal_full")
            assert "held_by=dead" in line
        else:
            assert answer.status == 200
            assert account(server, "dead")["journal_full"] > 0
            assert "totals=\"{'dead': {'journal_full':" in log_lines(server, "samples_dropped")[0]
        dead.start()
        found = settled(server, "dead")
        assert found["accepted"] == found["delivered"] + found.get("journal_full", 0)
        assert wait_for(lambda: ready(server.port), lambda status: status == 200) == 200
        assert push_next(client).status == 200
        assert metrics(server.port)['pushbridge_journal_held_by{target="dead"}'] == 0
