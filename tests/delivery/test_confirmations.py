import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bridge.delivery.confirmations import Confirmations
from bridge.errors import JournalFullError, JournalUnavailableError
from bridge.journal.rows import DeadLetter, Settled


@dataclass
class Disk:
    """A journal that has room for so many bytes of dead letters in one write."""

    room_bytes: int = 1 << 20
    broken: int = 0
    """Writes that still fail."""
    written: list[Settled] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    now_s: float = 0.0
    write_s: float = 0.0
    """How long a write takes."""
    pauses_s: list[float] = field(default_factory=list)

    async def confirm(self, target: str, settled: Sequence[Settled]) -> None:
        """Write, or say why not."""
        assert target == "t"
        self.now_s += self.write_s
        if self.broken:
            self.broken -= 1
            raise JournalUnavailableError("io_error", "broken")
        if sum(len(letter.body) for one in settled for letter in one.letters) > self.room_bytes:
            raise JournalFullError("journal_full", "full")
        self.written += settled

    async def failed(self, action: str, attempt: int, error: Exception) -> None:
        """Note it."""
        assert attempt > 0
        self.failures.append(f"{action}: {error}")

    async def pause(self, seconds: float) -> None:
        """Let the time pass."""
        self.pauses_s.append(seconds)

    def confirmations(self) -> Confirmations:
        """Begin."""
        return Confirmations("t", 0, self.confirm, self.failed, clock_s=lambda: self.now_s, pause=self.pause)

    async def take(self, *settled: Settled) -> Confirmations:
        """Confirm these, together, to the end."""
        confirmations = self.confirmations()
        for one in settled:
            confirmations.add(one)
        confirmations.close()
        await confirmations.run()
        return confirmations


def stretch(seq: int, *sizes: int) -> Settled:
    """A row of which as many samples as there are sizes were refused."""
    letters = tuple(DeadLetter(seq, 1, 400, "no", maybe_stored=False, body=bytes(size)) for size in sizes)
    return Settled(seq, seq, 1, {}, "no" if sizes else "", letters)


async def test_everything_in_one_write() -> None:
    """What has piled up is confirmed together, in order."""
    disk = Disk()
    confirmations = await disk.take(stretch(1), stretch(2, 10), stretch(3))
    assert disk.written == [stretch(1), stretch(2, 10), stretch(3)]
    assert (confirmations.confirmed_seq, confirmations.waits) == (3, False)


async def test_a_broken_disk_is_tried_again() -> None:
    """The same numbers are written once the disk is back."""
    disk = Disk(broken=3)
    await disk.take(stretch(1, 10), stretch(2))
    assert disk.written == [stretch(1, 10), stretch(2)]
    assert disk.failures == ["confirm: broken"] * 3


async def test_parts_find_room() -> None:
    """When the journal is full it is tried with less, so that what fits makes room; nothing is given up for that."""
    disk = Disk(room_bytes=100)
    settled = [stretch(seq, 60) for seq in range(1, 8)]
    confirmations = await disk.take(*settled)
    assert disk.written == settled
    assert (confirmations.confirmed_seq, disk.failures) == (7, [])


async def test_letters_without_room_are_counted_all_the_same() -> None:
    """Dead letters that find no room are kept as a number: they must not stop delivery."""
    disk = Disk(room_bytes=100)
    await asyncio.wait_for(disk.take(stretch(1), stretch(2, 80, 90), stretch(3, 10)), 10)
    assert [disk.written[0], disk.written[2]] == [stretch(1), stretch(3, 10)]
    (letter,) = disk.written[1].letters
    assert (letter.seq, letter.samples, letter.status, letter.body) == (2, 2, 400, b"")
    assert "not kept" in letter.words
    assert (disk.written[1].delivered, disk.written[1].words) == (1, "no")
    assert disk.failures == ["confirm: full"]


async def test_writes_leave_room_for_pushes() -> None:
    """After a write there is none for three times as long, unless it was the last one."""
    disk = Disk(write_s=0.02)
    confirmations = disk.confirmations()
    confirmations.add(stretch(1))
    running = asyncio.create_task(confirmations.run())
    await confirmations.all_confirmed()
    confirmations.add(stretch(2))
    confirmations.close()
    await running
    assert disk.written == [stretch(1), stretch(2)]
    assert disk.pauses_s == [pytest.approx(0.06)]
