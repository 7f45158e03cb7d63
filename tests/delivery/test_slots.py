"""Places for requests in flight: how many there are, who is next, and that none gets lost."""

import asyncio
from collections import Counter

from bridge.delivery.slots import Slots


class Flights:
    """Requests in flight, which end when told to."""

    def __init__(self, most: int) -> None:
        self._slots = Slots(most)
        self.ends: dict[str, asyncio.Event] = {}
        self.begun: list[str] = []

    def ask(self, name: str) -> "asyncio.Task[None]":
        """Begin a request, named after its tenant, when there is a place."""
        self.ends[name] = asyncio.Event()
        return asyncio.create_task(self._fly(name))

    async def _fly(self, name: str) -> None:
        async with self._slots.one(name.partition("-")[0]):
            self.begun.append(name)
            await self.ends[name].wait()


async def turns() -> None:
    """Let everybody do what can be done."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_in_order_up_to_the_limit() -> None:
    """With one tenant there are so many places, given in the order of asking."""
    flights = Flights(2)
    tasks = [flights.ask(f"-{number}") for number in range(5)]
    await turns()
    assert flights.begun == ["-0", "-1"]
    flights.ends["-1"].set()
    await turns()
    assert flights.begun == ["-0", "-1", "-2"]
    for end in flights.ends.values():
        end.set()
    await asyncio.gather(*tasks)
    assert flights.begun == ["-0", "-1", "-2", "-3", "-4"]


async def test_one_for_everybody() -> None:
    """A tenant that has all places leaves one to each other tenant, which is the other's own until it needs none."""
    flights = Flights(2)
    tasks = [flights.ask(name) for name in ("slow-1", "slow-2", "slow-3", "calm-1", "calm-2", "third-1")]
    await turns()
    assert flights.begun == ["slow-1", "slow-2", "calm-1", "third-1"]
    flights.ends["calm-1"].set()
    await turns()
    assert flights.begun[4:] == ["calm-2"], "nobody who came before may have it"
    flights.ends["slow-1"].set()
    flights.ends["third-1"].set()
    await turns()
    assert flights.begun[5:] == [], "there were more than the limit"
    flights.ends["calm-2"].set()
    await turns()
    assert flights.begun[5:] == ["slow-3"]
    for end in flights.ends.values():
        end.set()
    await asyncio.gather(*tasks)


async def test_a_place_is_not_lost_with_who_waits_for_it() -> None:
    """A request that is cancelled while it waits, or as it gets its place, leaves the place to the next."""
    flights = Flights(1)
    first, second, third = (flights.ask(f"-{number}") for number in range(3))
    await turns()
    flights.ends["-0"].set()
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    await turns()
    assert flights.begun == ["-0", "-2"]
    fourth, fifth = flights.ask("-3"), flights.ask("-4")
    await turns()
    fourth.cancel()
    flights.ends["-2"].set()
    await turns()
    assert flights.begun == ["-0", "-2", "-4"]
    flights.ends["-4"].set()
    await asyncio.gather(first, third, fifth)
    assert Counter(task.cancelled() for task in (second, fourth)) == {True: 2}
