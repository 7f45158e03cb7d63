"""The two bells: nobody sleeps through what concerns him, and nobody else is woken."""

import asyncio

import pytest

from bridge.journal.news import Milestones, News

DEADLINE_S = 10


async def started(*waits: "asyncio.Task[None]") -> None:
    """Let tasks run until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)


async def test_news_wake_everybody_who_waits() -> None:
    """All who wait return at the next news, and whoever waits afterwards waits for the next but one."""
    news = News()
    waits = [asyncio.create_task(news.wait()) for _ in range(3)]
    await started(*waits)
    news.tell()
    late = asyncio.create_task(news.wait())
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*waits)
    await started(late)
    news.tell()
    async with asyncio.timeout(DEADLINE_S):
        await late


async def test_no_news_are_slept_through() -> None:
    """A waiter that looks, finds nothing and waits sees every change, however the changes fall between its steps."""
    news, told, seen = News(), [0], [0]

    async def watch() -> None:
        while seen[0] < 500:
            while told[0] == seen[0]:
                await news.wait()
            seen[0] = told[0]

    async def tell() -> None:
        for number in range(500):
            told[0] += 1
            news.tell()
            for _ in range(number % 4):
                await asyncio.sleep(0)

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(watch(), tell())
    assert seen == told


async def test_a_milestone_wakes_those_who_wait_for_it() -> None:
    """A number wakes those who wait for it or for a lower one of the same name; the others go on waiting."""
    milestones = Milestones()
    waits = {(name, at): asyncio.create_task(milestones.reach(name, at)) for name in "ab" for at in (1, 5, 6)}
    await started(*waits.values())
    milestones.advance("a", 5)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert {key for key, wait in waits.items() if wait.done()} == {("a", 1), ("a", 5)}
    milestones.advance("a", 6)
    milestones.advance("b", 100)
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*waits.values())


async def test_waiters_that_give_up_leave_nothing() -> None:
    """A wait that is cancelled, also at the moment it ends, takes its entry with it: a target may be down for days."""
    milestones = Milestones()
    for _ in range(100):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await milestones.reach("down", 1)
    ending = asyncio.create_task(milestones.reach("down", 1))
    await started(ending)
    milestones.advance("down", 1)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    milestones.advance("down", 2)
    assert not any(milestones._waiting.values())
