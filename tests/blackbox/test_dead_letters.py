"""Poisoned load: what a receiver refuses is found alone and kept, everything else arrives, all is accounted for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.journal.history import History
from bridge.journal.letter_table import LetterQuestion
from bridge.journal.rows import DeadLetter
from bridge.wire import snappy_block
from tests.blackbox.checker import Pushed, Stored, judge
from tests.blackbox.load import Account, Load, Push, account, series, settled_account, wait_for
from tests.blackbox.scripted_receiver import ScriptedReceiver, refused_with
from tests.blackbox.servers import agent

QUICK = "queue_config: {min_backoff: 1ms, max_backoff: 20ms}"


def poisoned(writer: int, number: int) -> Push:
    """Push a number, and every third time a series beside it that asks to be refused."""
    group = {"job": "poisoned", "instance": str(writer)}
    body, effects = f"numbered {number}\n", [(series("numbered", **group), float(number))]
    if number % 3 == 0:
        status = 400 if number % 2 else 422
        body += f'bad_{status}{{refuse="{status}"}} {number}\n'
    return Push("POST", f"/metrics/job/poisoned/instance/{writer}", body.encode(), tuple(effects))


def good(stored: list[Stored]) -> list[Stored]:
    """Leave out what asks to be refused."""
    return [sample for sample in stored if not refused_with(sample)]


def letters_in(directory: Path) -> list[DeadLetter]:
    """Read the dead letters of a journal, oldest first."""
    history = History(directory / "storage" / "journal.db")
    try:
        return history.oldest_letters(LetterQuestion(), 1_000_000)
    finally:
        history.close()


def samples_of(letter: DeadLetter) -> list[Stored]:
    """Decode what a dead letter holds."""
    content = pb.WriteRequest.FromString(snappy_block.decompress(letter.body, 1 << 30))
    return [
        Stored(tuple((label.name, label.value) for label in one.labels), sample.timestamp, sample.value)
        for one in content.timeseries
        for sample in one.samples
    ]


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
    """Every poisoned sample that was pushed is a dead letter, once, alone, in the words that the receiver has for it.

    No other is, but for such that are marked as what the receiver may have, and that it has.
    """
    letters = letters_in(directory)
    newest: dict[str, int] = {}
    for entry in log:
        if entry.value is not None:
            newest[dict(entry.series)["instance"]] = int(entry.value)
    wanted = {(writer, number) for writer, last in newest.items() for number in range(3, last + 1, 3)}
    found = [(letter, samples_of(letter)[0]) for letter in letters]
    assert [letter.samples for letter in letters] == [1] * len(letters)
    bad = [sample for _, sample in found if refused_with(sample)]
    assert sorted((dict(sample.series)["instance"], sample.value) for sample in bad) == sorted(wanted)
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
