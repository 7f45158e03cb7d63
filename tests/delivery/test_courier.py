import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.delivery.batch import Request, cut
from bridge.delivery.courier import Courier, OnRejected, Pace
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater, classify
from bridge.delivery.throttle import ThrottledLog
from bridge.delivery.window import Refusal
from bridge.model import Exemplar
from bridge.wire import snappy_block
from bridge.wire.head import make_head
from bridge.wire.points import encode_field
from bridge.wire.remote_write import label_bytes, split_series, value_bytes
from tests.delivery.peers import Clock, Seen, decode
from tests.made import encode_series

MAX_BACKOFF_S = 5.0
PROBE = "probe"
Point = tuple[str, float, int]


@dataclass
class Store:
    """A receiver behind the client's interface: bad names have a status, time goes forward in each series."""

    bad: dict[str, int] = field(default_factory=dict)
    partial: bool = False
    down: int = 0
    """Answers that are still 500 whatever comes; below 0 for ever."""
    strangers: dict[str, int] = field(default_factory=dict)
    """Tenants of which nothing is taken, with the status."""
    tenants: list[str] = field(default_factory=list)
    blocks: list[list[Point]] = field(default_factory=list)
    newest: dict[str, Point] = field(default_factory=dict)
    has: set[Point] = field(default_factory=set)

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Take a request, or what is good of it, or nothing."""
        del attempt
        points = decode(block)
        self.blocks.append(points)
        self.tenants.append(tenant)
        if tenant in self.strangers:
            return classify(self.strangers[tenant], b"who?", None, 0)
        if self.down:
            self.down -= 1
            return classify(500, b"outage", None, 0)
        newest, good, worst = dict(self.newest), [], 0
        for point in points:
            last = newest.get(point[0])
            status = self.bad.get(point[0], 0)
            if not status and last is not None and point[2] <= last[2] and point != last:
                status = 400
            if status:
                worst = worst or status
            else:
                newest[point[0]] = point
                good.append(point)
        if worst and not self.partial:
            return classify(worst, b"bad", None, 0)
        self.newest = newest
        self.has.update(good)
        return classify(worst or 204, b"bad", None, 0)


@dataclass
class Desk:
    """A courier with everything around it."""

    store: Store
    on_rejected: OnRejected = "split"
    probe: Callable[[], Request] | None = lambda: request_of((PROBE, 0))
    clock: Clock = field(default_factory=Clock)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Put it together."""
        self.courier = Courier(
            "t",
            client=self.store,
            observer=Seen(),
            log=ThrottledLog("t", "http://t", self.clock),
            pace=Pace(self.clock, self.clock.sleep, lambda: 1.0, 0.03, MAX_BACKOFF_S),
            stopping=self.stopping,
            progress=self.progress,
            on_rejected=self.on_rejected,
            probe=self.probe,
        )


def request_of(*points: tuple[str, int], tenant: str = "") -> Request:
    """A request with these names and times."""
    return cut([encode_series([("__name__", name)], float(at), at) for name, at in points], tenant)


def spans(refusals: tuple[Refusal, ...] | None) -> list[tuple[int, int, int]]:
    assert refusals is not None
    return [(refusal.start, refusal.stop, refusal.status) for refusal in refusals]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), min_size=1, max_size=40),
    st.dictionaries(st.sampled_from("ace"), st.sampled_from([400, 409, 413, 422, 418]), max_size=3),
    st.booleans(),
)
@settings(deadline=None)
def test_receivers_of_both_kinds_end_right(names: list[tuple[str, bool]], bad: dict[str, int], partial: bool) -> None:
    """Every good sample is stored, every bad one refused alone; what else is refused may be there, says so, and is."""
    points = [(name, at) for at, (name, _) in enumerate(names, 1)]
    store = Store(bad, partial)
    refusals = asyncio.run(Desk(store).courier.settle(request_of(*points)))
    assert refusals is not None
    refused = {refusal.start: refusal for refusal in refusals}
    assert all(refusal.stop == refusal.start + 1 for refusal in refusals)
    assert sorted(refused) == [refusal.start for refusal in refusals]
    for at, (name, time) in enumerate(points):
        stored = (name, float(time), time) in store.has
        assert stored == (name not in bad)
        if name in bad:
            assert refused[at].status == bad[name]
            assert [(name, float(time), time)] in store.blocks
        elif at in refused:
            assert (partial, refused[at].maybe_stored) == (True, True)
    if not partial:
        assert all(name in bad for name, _ in (points[at] for at in refused))


async def test_a_500_of_the_data() -> None:
    """A sample that is answered 500 while others pass is found, and given up only after some patience."""
    desk = Desk(Store({"bad": 500}))
    points = [(f"m{at}", 1) for at in range(7)]
    refusals = await desk.courier.settle(request_of(*points[:3], ("bad", 1), *points[3:]))
    assert spans(refusals) == [(3, 4, 500)]
    assert refusals is not None
    assert refusals[0].maybe_stored
    assert desk.store.has - {(PROBE, 0.0, 0)} == {(name, 1.0, 1) for name, _ in points}
    assert desk.clock.now_s >= 2 * MAX_BACKOFF_S
    assert desk.store.blocks.count([("bad", 1.0, 1)]) >= 5


async def test_more_of_them_cost_less_time() -> None:
    """Once one sample was found so, the others of its request are not waited with."""
    first, many = Desk(Store({"bad": 500})), Desk(Store({"bad": 500}))
    await first.courier.settle(request_of(("bad", 1), ("m", 1)))
    refusals = await many.courier.settle(request_of(*[("bad", at) for at in range(1, 21)], ("m", 1)))
    assert len(spans(refusals)) == 20
    assert many.clock.now_s < first.clock.now_s + 20


async def test_an_outage_is_waited_for() -> None:
    """While the probe does not pass either nothing is split and nothing given up."""
    desk = Desk(Store(down=200))
    assert await desk.courier.settle(request_of(("a", 1), ("b", 1))) == ()
    sizes = {len(block) for block in desk.store.blocks if block[0][0] != PROBE}
    assert sizes == {2}


@pytest.mark.parametrize(("on_rejected", "has_probe"), [("drop", True), ("split", False)])
async def test_a_500_is_for_ever_without_a_probe(on_rejected: OnRejected, has_probe: bool) -> None:
    """Who does not split, or has nothing to compare with, tries again as Prometheus does."""
    desk = Desk(Store({"bad": 500}), on_rejected)
    if not has_probe:
        desk = Desk(Store({"bad": 500}), on_rejected, None)

    async def enough() -> None:
        if len(desk.clock.slept) > 50:
            desk.stopping.set()

    desk.clock.on_sleep = enough
    assert await desk.courier.settle(request_of(("bad", 1), ("a", 1))) is None
    assert {len(block) for block in desk.store.blocks} == {2}


async def test_the_probe_is_of_the_same_tenant() -> None:
    """Another tenant's health says nothing."""
    desk = Desk(Store({"bad": 500}))
    await desk.courier.settle(request_of(("bad", 1), tenant="red"))
    assert set(desk.store.tenants) == {"red"}
    assert [(PROBE, 0.0, 0)] in desk.store.blocks


def slow_steps(desk: Desk, number: int, then: Callable[[], None]) -> None:
    """After so many pauses something happens."""

    async def step() -> None:
        if len(desk.clock.slept) == number:
            then()

    desk.clock.on_sleep = step


async def test_what_is_refused_to_everybody_waits() -> None:
    """A wrong password or address is asked again seldom, in one piece, and nothing is given up."""
    desk = Desk(Store({"a": 401, PROBE: 401}))
    slow_steps(desk, 20, desk.store.bad.clear)
    assert await desk.courier.settle(request_of(("b", 1), ("a", 1), ("c", 1))) == ()
    assert {len(block) for block in desk.store.blocks if block[0][0] != PROBE} == {3}
    assert set(desk.clock.slept) == {6 * MAX_BACKOFF_S}
    assert len(desk.clock.slept) == 20


async def test_a_refusal_like_that_of_some_samples_alone() -> None:
    """While the probe is taken the samples are to blame: they are found, and the others delivered at once."""
    desk = Desk(Store({"a": 403}))
    assert spans(await desk.courier.settle(request_of(("b", 1), ("a", 1), ("c", 1)))) == [(1, 2, 403)]
    assert desk.clock.slept == []


async def test_a_tenant_that_is_refused_alone() -> None:
    """While another tenant is taken, all of the request is refused, in one piece: nobody waits for one tenant."""
    desk = Desk(Store(strangers={"red": 401}))
    assert await desk.courier.settle(request_of(("a", 1), tenant="blue")) == ()
    assert spans(await desk.courier.settle(request_of(("a", 1), ("b", 1), tenant="red"))) == [(0, 2, 401)]
    assert desk.clock.slept == []
    assert desk.store.tenants == ["blue", "red", "red", "blue"]


async def test_tenants_that_are_all_refused() -> None:
    """With nobody to compare with a wrong tenant is like a wrong password: it waits, and is in trouble so long."""
    desk = Desk(Store(strangers=dict.fromkeys(("", "red", "blue"), 401)))
    slow_steps(desk, 30, desk.store.strangers.clear)
    settling = asyncio.create_task(desk.courier.settle(request_of(("a", 1), tenant="red")))
    while not desk.clock.slept:  # noqa: ASYNC110 - a poll is enough
        await asyncio.sleep(0)
    assert desk.courier.in_trouble("red")
    assert not desk.courier.in_trouble("blue")
    assert await settling == ()
    assert not desk.courier.in_trouble("red")
    assert desk.clock.now_s >= 30 * 15


async def test_a_stop_gives_nothing_up() -> None:
    """An agent that ends while it is refused sends no more and leaves the request for the next start."""
    desk = Desk(Store({"a": 401, PROBE: 401}))
    slow_steps(desk, 2, desk.stopping.set)
    assert await desk.courier.settle(request_of(("a", 1))) is None


async def test_drop_waits_for_no_password() -> None:
    """With `on_rejected: drop` a wrong password drops the request, as in Prometheus."""
    desk = Desk(Store({"a": 401, PROBE: 401}), "drop")
    assert spans(await desk.courier.settle(request_of(("a", 1)))) == [(0, 1, 401)]
    assert len(desk.store.blocks) == 1


async def test_drop_gives_up_the_whole_request() -> None:
    """With `on_rejected: drop` nothing is kept and nothing sent again."""
    desk = Desk(Store({"a": 400}), "drop")
    (refusal,) = await desk.courier.settle(request_of(("b", 1), ("a", 1))) or ()
    assert (refusal.start, refusal.stop, refusal.fields) == (0, 2, None)
    assert len(desk.store.blocks) == 1


@pytest.mark.parametrize("names", ["ab", "b", "abcd"])
async def test_a_refused_exemplar_costs_no_sample(names: str) -> None:
    """A sample that is refused with its exemplar alone is delivered without; one that is bad itself is refused."""
    store = Store({"d": 400})
    desk = Desk(store)
    take = store.send

    async def send(block: bytes, attempt: int, tenant: str) -> Outcome:
        if any(b"trace" in one for one in split_series(snappy_block.decompress(block, 1 << 20))):
            return classify(400, b"out of order exemplar", None, 0)
        return await take(block, attempt, tenant)

    store.send = send  # type: ignore[method-assign]
    traced = Exemplar((("trace", "1"),), 1.0, 1)
    fields = [
        encode_field(
            make_head(label_bytes((("__name__", name),))), value_bytes(1.0), 1, [traced] if name in "bd" else []
        )
        for name in names
    ]
    refusals = await desk.courier.settle(cut(fields, ""))
    assert store.has == {(name, 1.0, 1) for name in names if name != "d"}
    assert spans(refusals) == ([(3, 4, 400)] if "d" in names else [])
    if refusals:
        assert refusals[0].fields == (fields[3],)


async def test_maybe_stored_is_remembered_from_before() -> None:
    """A refusal after an answer that nobody got says that the receiver may have the samples; 429 says it has not."""
    for status, expected in ((None, True), (503, True), (429, False)):
        answers: list[Outcome] = [RetryLater(None, status, ""), Rejected(400, "no")]
        desk = Desk(Store())
        desk.store.send = lambda *_, answers=answers: answer(answers)  # type: ignore[method-assign]
        (refusal,) = await desk.courier.settle(request_of(("a", 1))) or ()
        assert refusal.maybe_stored == expected


async def answer(answers: list[Outcome]) -> Outcome:
    """Give the next one."""
    return answers.pop(0)


async def test_stuck_until_something_passes() -> None:
    """Nothing gets through when all in hand is tried again and nothing has passed since the last of it failed."""
    desk = Desk(Store())
    wall = asyncio.Event()

    async def send(block: bytes, attempt: int, tenant: str) -> Outcome:
        del attempt, tenant
        if decode(block)[0][0] == "stuck" and not wall.is_set():
            return RetryLater(None, 503, "")
        return Delivered(204)

    async def wait() -> None:
        await wall.wait()

    desk.store.send = send  # type: ignore[method-assign]
    desk.clock.on_sleep = wait
    failing = asyncio.create_task(desk.courier.settle(request_of(("stuck", 1))))
    while not desk.clock.slept:  # noqa: ASYNC110 - the clock is a fake
        await asyncio.sleep(0)
    assert desk.courier.stuck
    desk.progress.clear()
    await desk.courier.settle(request_of(("a", 1)))
    assert not desk.courier.stuck
    assert desk.progress.is_set()
    also = asyncio.create_task(desk.courier.settle(request_of(("stuck", 2))))
    while len(desk.clock.slept) == 1:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert desk.courier.stuck
    wall.set()
    assert await asyncio.gather(failing, also) == [(), ()]
    assert not desk.courier.stuck


@pytest.mark.parametrize(("bad", "down", "stuck"), [({"bad": 503}, 0, False), ({}, -1, True)])
async def test_a_look_around(bad: dict[str, int], down: int, stuck: bool) -> None:
    """The probe tells whether nothing gets through or what is in hand is in trouble alone."""
    desk = Desk(Store(bad, down=down))

    async def look() -> None:
        if not desk.stopping.is_set():
            assert desk.courier.stuck
            await desk.courier.look_around()
            assert desk.courier.stuck == stuck
            desk.stopping.set()

    desk.clock.on_sleep = look
    assert await desk.courier.settle(request_of(("bad", 1))) is None


async def test_stop_leaves_the_fate_open() -> None:
    """Whoever is stopped in the middle of a search has settled nothing."""
    desk = Desk(Store({"a": 400}))

    async def send(block: bytes, attempt: int, tenant: str) -> Outcome:
        desk.stopping.set()
        return await Store({"a": 400}).send(block, attempt, tenant)

    desk.store.send = send  # type: ignore[method-assign]
    assert await desk.courier.settle(request_of(("a", 1), ("b", 1))) is None
