"""Poisoned load: what a receiver refuses is found alone and kept, everything else arrives, all is accounted for."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2
from pathlib import Path

import pytest

from bridge.journal.rows import DeadLetter
from tests.blackbox import binaries
from tests.blackbox.binaries import VERSIONS
from tests.blackbox.checker import Pushed, Stored, judge, without_repeats
from tests.blackbox.compliance import MESSAGES
from tests.blackbox.load import (
    Account,
    Client,
    Load,
    Push,
    account,
    metrics,
    one_value,
    push_next,
    request,
    series,
    settled_account,
    wait_for,
)
from tests.blackbox.poison import good, letters_in, poisoned, samples_of
from tests.blackbox.queries import PrometheusStore, Store, VictoriaStore, now_ms, poll
from tests.blackbox.scripted_receiver import Request, ScriptedReceiver, Step, refused_with
from tests.blackbox.servers import agent, needs, prometheus, victoria_metrics

QUICK = "queue_config: {min_backoff: 1ms, max_backoff: 20ms}"


@contextmanager
def scraping(port: int) -> Iterator[list[Account]]:
    """Read the account again and again meanwhile."""
    seen: list[Account] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(account(port))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def judge_letters(directory: Path, log: list[Pushed], stored: list[Stored]) -> list[DeadLetter]:
    """Every poisoned sample that was accepted is a dead letter, once, alone, in the words that the receiver has for it.

    No other is, but for such that are marked as what the receiver may have, and that it has.
    """
    numbered = [entry for entry in log if entry.value is not None and entry.value % 3 == 0]
    must = {(dict(e.series)["instance"], e.value) for e in numbered if e.fate == "acknowledged"}
    may = {(dict(e.series)["instance"], e.value) for e in numbered if e.fate == "unanswered"}
    letters = letters_in(directory)
    assert [letter.samples for letter in letters] == [1] * len(letters)
    found = [(letter, samples_of(letter)[0]) for letter in letters]
    bad = [(dict(sample.series)["instance"], sample.value) for _, sample in found if refused_with(sample)]
    assert len(set(bad)) == len(bad)
    assert must <= set(bad) <= must | may
    for letter, sample in found:
        if status := refused_with(sample):
            assert (letter.status, letter.words) == (status, f"refused with {status}")
        else:
            assert (letter.maybe_stored, sample in stored) == (True, True)
    return letters


@pytest.mark.parametrize("partial", [False, True], ids=["all_or_nothing", "partial"])
def test_no_neighbour_pays(partial: bool, tmp_path: Path) -> None:
    """All good samples arrive in order, all bad ones are dead letters, and the account holds at every scrape."""
    with ScriptedReceiver(partial=partial) as receiver, agent(tmp_path, config=receiver.config) as server:
        with scraping(server.port) as seen, Load(server.port, plan=poisoned) as load:
            wait_for(load.acknowledged, lambda pushes: pushes > 300)
        final = settled_account(server.port)
        assert server.stop() == 0
    stored = good(receiver.stored())
    assert judge(load.log(), stored, max_rewinds=len(receiver.requests()) if partial else 0) == []
    letters = judge_letters(tmp_path, load.log(), stored)
    assert all(now.balanced for now in [*seen, final])
    assert (final.pending, final.dropped) == (0, {})
    assert sum(final.dead_lettered.values()) == len(letters) >= 50
    assert set(final.dead_lettered) == {"http_400", "http_422"}


CONFIG = "remote_write: [{{url: '{url}/api/v1/write', name: target, protobuf_message: {message}, {quick}}}]\n"
WINDOW = "storage: {tsdb: {out_of_order_time_window: 10m}}\n"
HOUR_MS = 3_600_000


@pytest.mark.real
@needs("prometheus")
@pytest.mark.parametrize("version", VERSIONS)
def test_beside_a_real_prometheus(version: str, tmp_path: Path) -> None:
    """Prometheus has every good sample, and what it answered 400 to, or 500 as before 2.50, are the dead letters."""
    with prometheus(tmp_path / "prometheus", config=WINDOW) as receiver:
        config = CONFIG.format(url=receiver.url, message=MESSAGES[version], quick=QUICK)
        pushed = push_bad_times(tmp_path, config)
        assert poll(lambda: stored_values(PrometheusStore(receiver)), pushed.good) == pushed.good
    duplicates = [letter for letter in pushed.letters if "duplicate sample" in letter.words]
    assert values_of(duplicates) == pushed.duplicates
    assert {letter.status for letter in duplicates} == {400}
    old = [letter for letter in pushed.letters if letter not in duplicates]
    assert values_of(old) == pushed.old
    assert {(letter.status, letter.maybe_stored) for letter in old} == {
        (500, True) if binaries.version("prometheus") < (2, 50) else (400, False)
    }
    assert sum(pushed.account.dead_lettered.values()) == len(pushed.letters) == 20


@pytest.mark.real
@needs("victoria-metrics")
def test_beside_a_real_victoria_metrics(tmp_path: Path) -> None:
    """VictoriaMetrics takes everything, and nothing becomes a dead letter."""
    with victoria_metrics(tmp_path / "victoria", "-search.latencyOffset=0s", "-search.disableCache") as receiver:
        config = CONFIG.format(url=receiver.url, message=MESSAGES["1.0"], quick=QUICK)
        pushed = push_bad_times(tmp_path, config)
        assert poll(lambda: stored_values(VictoriaStore(receiver)), pushed.good) == pushed.good
    assert (pushed.letters, pushed.account.dead_lettered) == ([], {})


@dataclass(frozen=True, slots=True)
class BadTimes:
    """What was pushed for a real receiver, and what became of it."""

    good: list[float]
    duplicates: list[float]
    old: list[float]
    account: Account
    letters: list[DeadLetter]


def push_bad_times(tmp_path: Path, config: str) -> BadTimes:
    """Push good samples among such that are too old, or that give another value to a time that has one."""
    at_ms = now_ms()
    with agent(tmp_path, config=config) as server:
        first = "".join(f'twice{{n="{n}"}} 0 {at_ms}\n' for n in range(10))
        assert request(server.port, "PUT", "/metrics/job/bad?wait=delivered", first.encode()).status == 200
        for number in range(1, 31):
            body = f"good {number}\n"
            if number <= 10:
                body += f'twice{{n="{number - 1}"}} {number} {at_ms}\n'
            elif number <= 20:
                body += f'old{{n="{number}"}} {number} {at_ms - HOUR_MS}\n'
            assert request(server.port, "POST", "/metrics/job/bad", body.encode()).status == 200
        final = settled_account(server.port)
        assert (final.balanced, final.pending, final.dropped) == (True, 0, {})
        assert server.stop() == 0
    numbers = [float(number) for number in range(1, 31)]
    return BadTimes(numbers, numbers[:10], numbers[10:20], final, letters_in(tmp_path))


def values_of(letters: list[DeadLetter]) -> list[float]:
    """Values of what dead letters hold, sorted."""
    return sorted(sample.value or 0.0 for letter in letters for sample in samples_of(letter))


def stored_values(store: Store) -> list[float]:
    """Values of the good series that a receiver has."""
    return [
        float(value)
        for labels, points in store.raw("bad").items()
        for _, value in points
        if ("__name__", "good") in labels
    ]


@pytest.mark.parametrize("partial", [False, True], ids=["all_or_nothing", "partial"])
def test_killed_in_the_middle_of_a_split(partial: bool, tmp_path: Path) -> None:
    """Wherever the agent is killed, no good sample is lost, and each bad one is a dead letter once."""
    kills = 3
    with ScriptedReceiver(partial=partial, delay_s=0.002) as receiver:
        log: list[Pushed] = []
        for _ in range(kills):
            seen = len(receiver.requests())
            with (
                agent(tmp_path, config=receiver.config) as server,
                Load(server.port, writers=2, plan=poisoned_after(log)) as load,
            ):
                receiver.wait_for(lambda requests, seen=seen: len(requests) > seen + 25)  # type: ignore[misc]
                server.kill()
                load.stop()
            log += load.log()
        with agent(tmp_path, config=receiver.config) as server:
            final = settled_account(server.port)
            assert server.stop() == 0
        requests, stored = receiver.requests(), good(receiver.stored())
    assert judge(log, stored, max_rewinds=len(requests) if partial else kills) == []
    letters = judge_letters(tmp_path, log, stored)
    assert (final.balanced, final.pending, final.dropped) == (True, 0, {})
    assert sum(final.dead_lettered.values()) == len(letters) > kills


def poisoned_after(log: list[Pushed]) -> Callable[[int, int], Push]:
    """Go on counting where the log ends."""
    newest = max((int(entry.value) for entry in log if entry.value is not None), default=0)
    return lambda writer, number: poisoned(writer, newest + number)


def test_bad_data_that_is_answered_500(tmp_path: Path) -> None:
    """A receiver that answers 500 to a sample gets the others; the one is a dead letter, marked as maybe stored."""
    with ScriptedReceiver() as receiver, agent(tmp_path, config=quick(receiver)) as server:
        with Client(server.port) as client:
            for number in range(1, 31):
                body = f"numbered {number}\n" + (f'bad{{refuse="500"}} {number}\n' if number % 10 == 0 else "")
                effects = ((series("numbered", job="doubtful"), float(number)),)
                client.must_accept(Push("POST", "/metrics/job/doubtful", body.encode(), effects))
        final = settled_account(server.port)
        assert server.stop() == 0
        assert judge(client.log, numbered(receiver)) == []
    assert (final.balanced, final.pending, final.dead_lettered) == (True, 0, {"http_500": 3})
    assert [(letter.status, letter.maybe_stored) for letter in letters_in(tmp_path)] == [(500, True)] * 3


def test_an_outage_of_500s_makes_no_dead_letter(tmp_path: Path) -> None:
    """As long as nothing is taken nothing is given up, however often it is tried."""
    outage = [Step(500, b"out of order")] * 60
    with ScriptedReceiver(*outage) as receiver, agent(tmp_path, config=quick(receiver)) as server:
        with Client(server.port) as client:
            for number in range(1, 31):
                client.must_accept(one_value("outage", number))
        receiver.wait_for(lambda requests: len(requests) > len(outage))
        final = settled_account(server.port)
        assert judge(client.log, numbered(receiver)) == []
    assert (final.balanced, final.pending, final.dead_lettered) == (True, 0, {})


def test_a_wrong_password_costs_nothing(tmp_path: Path) -> None:
    """What is refused to everybody is neither split nor given up: all is delivered when the password is right."""
    wrong = [Step(401, b"who are you")] * 12
    with ScriptedReceiver(*wrong) as receiver, agent(tmp_path, config=quick(receiver)) as server:
        with Load(server.port, writers=2) as load:
            wait_for(load.acknowledged, lambda pushes: pushes > 100)
        final = settled_account(server.port)
        assert 'words="who are you"' in server.log_tail()
        assert "event=remote_write_works_again" in server.log_tail()
        assert judge(load.log(), good(receiver.stored())) == []
    assert (final.balanced, final.pending, final.dead_lettered) == (True, 0, {})


def test_a_full_journal_of_which_all_is_refused(tmp_path: Path) -> None:
    """Dead letters stop neither delivery nor pushes, though the journal has no room for them."""
    with ScriptedReceiver(*[Step(400)] * 100_000, up=False) as receiver:
        config = f"{receiver.config}storage: {{max_bytes: 1MiB}}\n"
        with agent(tmp_path, config=config) as server, Client(server.port) as client:
            while push_next(client).status == 200:
                pass
            receiver.start()
            final = settled_account(server.port)
            assert (final.balanced, final.pending, final.dead_lettered) == (True, 0, {"http_400": final.accepted})
            assert push_next(client).status == 200
            assert metrics(server.port)['pushbridge_dead_letters{target="target"}'] <= final.accepted
            assert server.stop() == 0
    assert sum(len(letter.body) for letter in letters_in(tmp_path)) <= 1 << 18


@pytest.mark.parametrize("bad", [1, 6, 1000])
def test_few_requests_more(bad: int, tmp_path: Path) -> None:
    """K bad samples of n cost about k * log2(n / k) requests beyond the first, and all of them little more than n."""
    number = 1000
    marks = dict.fromkeys(range(0, number, number // bad), ',refuse="400"')
    body = "".join(f'one{{n="{n}"{marks.get(n, "")}}} 1\n' for n in range(number))
    with ScriptedReceiver() as receiver, agent(tmp_path, config=receiver.config) as server:
        assert request(server.port, "PUT", "/metrics/job/few", body.encode()).status == 200
        final = settled_account(server.port)
        of_push = [one for one in receiver.requests() if any(("job", "few") in sample.series for sample in one.samples)]
    assert sum(final.dead_lettered.values()) == len(marks)
    assert len(of_push) - 1 <= min(2 * len(marks) * (log2(number / len(marks)) + 1) + 12, number + 100)


def test_several_requests_in_flight(tmp_path: Path) -> None:
    """With round trips of 50 ms a backlog is not held to one batch for each, and every series keeps its order."""
    with ScriptedReceiver(up=False, delay_s=0.05) as receiver:
        config = receiver.config.replace("}", ", queue_config: {max_samples_per_send: 50, capacity: 200}}")
        with agent(tmp_path, config=config) as server:
            with Load(server.port, plan=many_groups) as load:
                wait_for(load.acknowledged, lambda pushes: pushes > 2000)
            receiver.start()
            final = settled_account(server.port)
            assert judge(load.log(), good(receiver.stored())) == []
            assert (final.balanced, final.pending) == (True, 0)
            assert receiver.most_in_flight >= 4
            assert len(receiver.requests()) < final.accepted / 20


def many_groups(writer: int, number: int) -> Push:
    """Push a number to one of many groups of a writer."""
    return one_value(f"many-{writer}-{number % 40}", number)


def test_only_the_push_that_is_refused_is_told_so(tmp_path: Path) -> None:
    """Of two pushes in one request the one whose sample is refused is answered 502, in the receiver's words."""
    # The first one keeps the sender busy, so that the others go out together.
    bodies = [b"a 1\n", b"a 2\n", b'a 3\nb{refuse="400"} 3\n', b"a 4\n"]
    with ScriptedReceiver(delay_s=0.1) as receiver, agent(tmp_path, config=receiver.config) as server:
        waiting = []
        with ThreadPoolExecutor() as pool:
            for number, body in enumerate(bodies):
                path = f"/metrics/job/j{number}?wait=delivered&timeout=20s"
                waiting.append(pool.submit(request, server.port, "PUT", path, body))
                wait_for(lambda: account(server.port).accepted, lambda now, n=number: now > 3 * n)  # type: ignore[misc]
            answers = [future.result() for future in waiting]
    assert [answer.status for answer in answers] == [200, 200, 502, 200]
    assert "refused with 400" in json.loads(answers[2].text)["error"]


def quick(receiver: ScriptedReceiver) -> str:
    """Have retries follow each other soon."""
    return receiver.config.replace("}", f", {QUICK}}}")


def without_own(receiver: ScriptedReceiver) -> list[Request]:
    """The requests with something pushed, not only what the agent repeats or says of itself."""
    return [one for one in receiver.requests() if without_repeats(one.samples)]


def numbered(receiver: ScriptedReceiver) -> list[Stored]:
    """The numbers that were stored."""
    return [sample for sample in receiver.stored() if dict(sample.series)["__name__"] == "numbered"]
