import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.batch import Request, Share, cut, separate
from bridge.delivery.lanes import Lanes
from bridge.delivery.rewrite import Row, TargetRules, prepare
from bridge.delivery.shards import _CLEAN_ROWS
from bridge.delivery.window import Refusal
from tests.delivery.peers import decode, entry


@dataclass
class Road:
    """Where requests of shards arrive, and how far they are from their end."""

    arrived: list[Request] = field(default_factory=list)
    bad: frozenset[int] = frozenset()
    """Rows of which the first sample is refused."""
    slow: bool = True
    in_flight: int = 0
    most_in_flight: int = 0
    settled: int = 0

    async def settle(self, request: Request) -> Sequence[Refusal]:
        """Take a request, some later than others."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.arrived.append(request)
        for _ in range(len(self.arrived) % 5 * 10 if self.slow else 0):
            await asyncio.sleep(0)
        self.in_flight -= 1
        start, refusals = 0, []
        for share in request.shares:
            if share.seq in self.bad:
                refusals.append(Refusal(start, start + 1, 400, "no", maybe_stored=False, fields=(b"",)))
            start += share.samples
        return refusals

    def note(self, request: Request, _refusals: Sequence[Refusal]) -> None:
        """Count."""
        self.settled += request.samples

    def rows(self) -> list[tuple[bytes, int]]:
        """Group and number of each row, in order of arrival."""
        return [(share.group, share.seq) for request in self.arrived for share in request.shares]


@asynccontextmanager
async def shards_to(road: Road, number: int = 1, *, max_samples: int = 4, capacity: int = 100) -> AsyncIterator[Lanes]:
    """Run shards."""
    shards = Lanes(
        road.settle,
        road.note,
        number=number,
        max_samples=max_samples,
        max_body_bytes=1 << 20,
        capacity=capacity,
        progress=asyncio.Event(),
        has_tenants=False,
        is_settled=lambda _: True,
    )
    async with asyncio.TaskGroup() as tasks:
        shards.start(tasks)
        yield shards
        await shards.finish()


def row_of(seq: int) -> Row:
    row = prepare(entry(seq, "a", "b"), TargetRules())
    assert row is not None
    return row


@given(
    st.lists(
        st.one_of(st.tuples(st.just("put"), st.integers(0, 9)), st.tuples(st.just("resize"), st.integers(1, 6))),
        max_size=60,
    )
)
def test_the_rows_of_a_group_keep_their_order(steps: list[tuple[str, int]]) -> None:
    """Whatever the number of shards is and becomes, everything arrives once, each group's rows in order."""

    async def run() -> None:
        road, rows = Road(), 0
        async with shards_to(road) as shards:
            for seq, (step, number) in enumerate(steps):
                if step == "resize":
                    shards.resize(number)
                    assert shards.number == number
                else:
                    shards.put(b"group %d" % number, seq, row_of(seq))
                    rows += 1
                await asyncio.sleep(0)
            await shards.emptied()
        assert road.settled == 2 * rows == 2 * len(road.rows())
        for _, some in groupby(sorted(road.rows(), key=lambda row: row[0]), key=lambda row: row[0]):
            seqs = [seq for _, seq in some]
            assert seqs == sorted(seqs)

    asyncio.run(run())


async def test_each_shard_has_one_request_in_flight() -> None:
    """As many requests are under way as there are shards, when there are enough groups, and no more."""
    road = Road()
    async with shards_to(road, 4, max_samples=2) as shards:
        for seq in range(200):
            shards.put(b"group %d" % (seq % 20), seq, row_of(seq))
        await shards.emptied()
    assert road.most_in_flight == 4


async def test_shards_begin_one_after_the_other() -> None:
    """No two requests are begun in the same turn of the loop, so that pushes get theirs in between."""
    turn = 0
    begun: list[int] = []

    class Noting(Road):
        async def settle(self, request: Request) -> Sequence[Refusal]:
            begun.append(turn)
            return await super().settle(request)

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async with shards_to(Noting(), 20, max_samples=2) as shards:
        counting = asyncio.create_task(count())
        for seq in range(100):
            shards.put(b"group %d" % seq, seq, row_of(seq))
        await shards.emptied()
        counting.cancel()
    assert len(begun) == len(set(begun)) == 100


async def test_groups_go_where_there_is_least_to_do() -> None:
    """While there is an idle shard, the rows of a group that has none under way do not wait behind those of others."""
    road = Road()
    async with shards_to(road, 10, max_samples=2, capacity=1000) as shards:
        for seq in range(100):
            shards.put(b"group %d" % (seq % 20), seq, row_of(seq))
        await shards.emptied()
    first = [number for _, number in road.rows()][:10]
    assert sorted(first) == list(range(10))
    assert len(road.arrived) == 100


async def test_capacity_counts_what_is_not_settled() -> None:
    """Shards are full when so many samples are taken, wherever they are, and have room again as they are settled."""
    road = Road()
    async with shards_to(road, 2, capacity=10) as shards:
        for seq in range(10):
            assert not shards.full
            shards.put(b"g", seq, row_of(seq))
        assert shards.full
        await shards.emptied()
        assert not shards.full
        assert shards.idle


async def test_a_request_waits_to_be_full() -> None:
    """What is not full is sent with a flush, in idle shards alone if that is wanted."""
    road = Road(slow=False)
    async with shards_to(road) as shards:
        shards.put(b"g", 1, row_of(1))
        for _ in range(10):
            await asyncio.sleep(0)
        assert road.arrived == []
        for seq in (2, 3):
            shards.put(b"g", seq, row_of(seq))
        shards.flush_idle()
        for _ in range(10):
            await asyncio.sleep(0)
        assert [len(request.shares) for request in road.arrived] == [2]
        shards.flush_idle()
        await shards.emptied()
        assert [len(request.shares) for request in road.arrived] == [2, 1]


async def test_suspects_go_apart_until_they_are_clean_again() -> None:
    """A group of which something was refused shares no request, and no two of its rows do, for a number of rows."""
    road = Road(bad=frozenset({0}), slow=False)
    async with shards_to(road, max_samples=8) as shards:
        shards.put(b"bad", 0, row_of(0))
        await shards.emptied()
        for seq in range(1, 2 * (_CLEAN_ROWS + 8) + 1):
            shards.put(b"bad" if seq % 2 else b"good", seq, row_of(seq))
            if seq % 8 == 0:
                await shards.emptied()
    # Requests hold four rows, two of each group.
    of_bad = [[share.seq for share in one.shares if share.group == b"bad"] for one in road.arrived[1:]]
    alone = [seqs for seqs in of_bad if len(seqs) == 1]
    assert len(alone) == _CLEAN_ROWS
    assert all(len(one.shares) == 1 for one in road.arrived[1 : 3 * _CLEAN_ROWS // 2] if one.shares[0].group == b"bad")
    assert of_bad[-1] == [2 * (_CLEAN_ROWS + 8) - 3, 2 * (_CLEAN_ROWS + 8) - 1]


async def test_what_is_refused_as_a_whole_makes_no_suspects() -> None:
    """A wrong password says nothing of any group."""

    class Closed(Road):
        async def settle(self, request: Request) -> Sequence[Refusal]:
            """Refuse all."""
            await super().settle(request)
            return [Refusal(0, request.samples, 401, "who are you", maybe_stored=False, fields=(b"",))]

    road = Closed()
    async with shards_to(road) as shards:
        for seq in range(8):
            shards.put(b"g", seq, row_of(seq))
        await shards.emptied()
    assert [len(request.shares) for request in road.arrived] == [2] * 4


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.sets(st.integers(0, 5)))
def test_separating_keeps_everything_in_order(groups: list[int], suspects: set[int]) -> None:
    """No part has two rows of a suspect, or a suspect among others' rows; each group's samples stay in order."""
    rows = [entry(seq, "a", "b") for seq in range(len(groups))]
    fields = [one for row in rows for one in Request(row.body, 2).fields()]
    shares = tuple(Share(seq, 2, b"%d" % group) for seq, group in enumerate(groups))
    request = cut(fields, "tenant", shares)
    names = {b"%d" % group for group in suspects}
    parts = separate(request, names)
    found = [share for part in parts for share in part.shares]
    assert sorted(share.seq for share in found) == list(range(len(groups)))
    for group in set(groups):
        seqs = [share.seq for share in found if share.group == b"%d" % group]
        assert seqs == sorted(seqs)
    for part in parts:
        assert part.tenant == "tenant"
        assert decode(part.block) == [point for share in part.shares for point in decode(rows[share.seq].body)]
        of_suspects = [share.group for share in part.shares if share.group in names]
        if len(shares) > 1 and of_suspects:
            assert len(set(of_suspects)) == len(of_suspects) == len(part.shares)
