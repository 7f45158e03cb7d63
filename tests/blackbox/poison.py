"""Pushes with samples that a receiver is asked to refuse, and the dead letters that come of them."""

from pathlib import Path

from bridge.journal.history import History
from bridge.journal.letter_table import LetterQuestion
from bridge.journal.rows import DeadLetter
from tests.blackbox.checker import Stored
from tests.blackbox.load import Push, series
from tests.blackbox.scripted_receiver import refused_with, samples_in


def poisoned(writer: int, number: int, every: int = 3) -> Push:
    """Push a number, and `every` so many times a series beside it that asks to be refused."""
    group = {"job": "poisoned", "instance": str(writer)}
    body, effects = f"numbered {number}\n", [(series("numbered", **group), float(number))]
    if number % every == 0:
        status = 400 if number % 2 else 422
        body += f'bad_{status}{{refuse="{status}"}} {number}\n'
    return Push("POST", f"/metrics/job/poisoned/instance/{writer}", body.encode(), tuple(effects))


def good(stored: list[Stored]) -> list[Stored]:
    """Leave out what asks to be refused, and probes."""
    return [s for s in stored if not refused_with(s) and dict(s.series)["__name__"] != "pushbridge_probe"]


def letters_in(directory: Path) -> list[DeadLetter]:
    """Read the dead letters of a journal, oldest first."""
    history = History(directory / "storage" / "journal.db")
    try:
        return history.oldest_letters(LetterQuestion(), 1_000_000)
    finally:
        history.close()


def samples_of(letter: DeadLetter) -> list[Stored]:
    """Decode what a dead letter holds."""
    return samples_in(letter.body)
