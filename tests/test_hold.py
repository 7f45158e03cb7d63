"""What groups repeat at a point of the grid, when they end, and how a target gets through them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exposition.text import parse_text
from bridge.flatten import FlattenOptions, flatten
from bridge.groups import LOOKBACK_MS, Change, Group, delete, group_id, key_of, refuse, store
from bridge.hold import HeldRequest, TargetHold, Tick, due_ms, end, grid_ms, held_points
from bridge.journal.rows import NEVER_MS
from bridge.registry import Groups
from bridge.wire import snappy_block
from bridge.wire.head import decode_sample, labels_of, make_head
from bridge.wire.remote_write import label_bytes, split_series, value_bytes
from tests.made import turn

NOW_MS = 1_700_000_030_000
AT_MS = 1_700_000_040_000
"""The first point of the grid behind `NOW_MS`."""
DAY_MS = 86_400_000
PUSH_TIMES = {"push_time_seconds": NOW_MS / 1000, "push_failure_time_seconds": 0.0}


def change(
    body: str, ttl_ms: int = DAY_MS, *, group: Group | None = None, at_ms: int = NOW_MS, job: str = "a"
) -> Change:
    """POST a body to a group."""
    grouping = (("job", job),)
    content = flatten(parse_text(body.encode()), grouping, FlattenOptions({}), at_ms)
    group = group or Group(group_id(key_of(grouping), {}))
    return store(group, content, at_ms, replace_all=False, ttl_ms=ttl_ms)


def pushed(body: str, ttl_ms: int = DAY_MS, *, at_ms: int = NOW_MS, job: str = "a") -> Group:
    """A group after its first push."""
    return change(body, ttl_ms, at_ms=at_ms, job=job).group


def name_of(head: bytes) -> str:
    """Metric name of a head."""
    return dict(labels_of(head))["__name__"]


def repeated(group: Group, at_ms: int = AT_MS) -> dict[str, float]:
    """Name and value of what a group repeats."""
    heads, doubles = held_points(group, at_ms)
    return {name_of(head): value for head, value in zip(heads, map(_float, doubles), strict=True)}


def _float(double: bytes) -> float:
    return decode_sample(make_head(label_bytes([("__name__", "x")])) + double + b"\x10\x80\x80\x80\x80\x80\x01")[1]


@given(st.integers(0, 1 << 42), st.integers(1000, 299_999))
def test_the_grid(now_ms: int, interval_ms: int) -> None:
    """A point of the grid is a multiple of the interval, and the newest that is not in the future."""
    at_ms = grid_ms(now_ms, interval_ms)
    assert at_ms % interval_ms == 0
    assert at_ms <= now_ms < at_ms + interval_ms


GONE = delete(pushed("a 1\n"), NOW_MS).group
EXPIRED = end(pushed("a 1\n", 1000), NOW_MS + 1000).group
FAILED = refuse(Group(group_id(key_of((("job", "a"),)), {})), NOW_MS).group
DUE = {
    "with a TTL": (pushed("a 1\n", 5000), NOW_MS + 5000),
    "sent once": (pushed("a 1\n", 0), NOW_MS + LOOKBACK_MS),
    "until deleted": (pushed("a 1\n", NEVER_MS), NEVER_MS),
    "expired": (EXPIRED, NOW_MS + DAY_MS),
    "never pushed, refused once": (FAILED, NOW_MS + DAY_MS),
    "refused after it expired": (refuse(EXPIRED, NOW_MS + 9000).group, NOW_MS + 9000 + DAY_MS),
    "pushed without series": (pushed("", 5000), NOW_MS + DAY_MS),
    "deleted": (GONE, NEVER_MS),
}


@pytest.mark.parametrize(("group", "at_ms"), DUE.values(), ids=DUE)
def test_when_something_ends(group: Group, at_ms: int) -> None:
    """What a group holds ends with its TTL, its push times a set time after the newest of them."""
    assert due_ms(group, DAY_MS) == at_ms


ENDS = {
    "with a TTL": (pushed("a 1\nb 2\n"), "expire", ["a", "b"]),
    "sent once": (pushed("a 1\n", 0), "expire", []),
    "with timestamps": (pushed(f"a 1 {NOW_MS}\nb 2\n"), "expire", ["b"]),
    "expired": (EXPIRED, "forget", ["push_time_seconds", "push_failure_time_seconds"]),
}


@pytest.mark.parametrize(("group", "operation", "ended"), ENDS.values(), ids=ENDS)
def test_what_ends(group: Group, operation: str, ended: list[str]) -> None:
    """Each series that was repeated gets a marker that is newer than everything; the push times stay until later."""
    done = end(group, AT_MS)
    assert done.operation == operation
    assert [name_of(head) for head in done.ended] == ended
    assert not done.gauges
    assert done.group.parts == ()
    assert done.group.live == (operation == "expire")
    assert done.group.expired == (operation == "expire")
    assert done.group.last_ms == (AT_MS if ended else group.last_ms)
    if done.group.live:
        assert (done.group.push_ms, done.group.failure_ms) == (group.push_ms, group.failure_ms)
        assert set(repeated(done.group, AT_MS + 60_000)) == set(PUSH_TIMES)


HELD = {
    "values and push times": (pushed("a 1\nb 2\n"), AT_MS, {**PUSH_TIMES, "a": 1.0, "b": 2.0}),
    "only while the TTL lasts": (pushed("a 1\n", AT_MS + 1 - NOW_MS), AT_MS, {**PUSH_TIMES, "a": 1.0}),
    "not at the end of the TTL": (pushed("a 1\n", AT_MS - NOW_MS), AT_MS, PUSH_TIMES),
    "not behind the end of the TTL": (pushed("a 1\n", 1), AT_MS, PUSH_TIMES),
    "not what is sent once": (pushed("a 1\n", 0), AT_MS, PUSH_TIMES),
    "for ever": (pushed("a 1\n", NEVER_MS), AT_MS + 10**10, {**PUSH_TIMES, "a": 1.0}),
    "not what has a timestamp": (pushed(f"a 1 {NOW_MS}\nb 2\n"), AT_MS, {**PUSH_TIMES, "b": 2.0}),
    "not at the time of the push": (pushed("a 1\n", at_ms=AT_MS), AT_MS, {}),
    "not before the push": (pushed("a 1\n", at_ms=AT_MS + 1), AT_MS, {}),
    "a push without series": (pushed(""), AT_MS, PUSH_TIMES),
    "push times after the end": (EXPIRED, AT_MS, PUSH_TIMES),
    "nothing of a deleted group": (GONE, AT_MS + DAY_MS, {}),
    "a part of one push, a part of another": (
        change("b 3\n", group=pushed("a 1\nb 2\n")).group,
        AT_MS,
        {**PUSH_TIMES, "push_time_seconds": (NOW_MS + 1) / 1000, "a": 1.0, "b": 3.0},
    ),
    "with the TTL of the newest push": (
        change("b 3\n", 0, group=pushed("a 1\n", at_ms=NOW_MS - 1)).group,
        AT_MS,
        PUSH_TIMES,
    ),
    "a file has no push times": (
        replace(pushed("a 1\n"), id=group_id(key_of((("job", "a"),), "f.prom"), {})),
        AT_MS,
        {"a": 1.0},
    ),
}


@pytest.mark.parametrize(("group", "at_ms", "values"), HELD.values(), ids=HELD)
def test_what_is_repeated(group: Group, at_ms: int, values: dict[str, float]) -> None:
    """A group repeats what it holds, less what has a timestamp of its own, until its TTL has passed."""
    assert repeated(group, at_ms) == values


class Bench:
    """Groups, ticks and one target's way through them."""

    def __init__(self, *groups: Group, max_samples: int = 3, own: bool = False) -> None:
        self.groups = Groups()
        self.groups.publish(groups)
        self.now = Tick()
        head = make_head(label_bytes([("__name__", "own")]))
        points = (lambda at_ms: [("", ([head], [value_bytes(at_ms)]))]) if own else (lambda _: [])
        self.hold = TargetHold(self.groups, lambda: self.now, max_samples, points)

    def tick(self, at_ms: int = AT_MS, seq: int = 0) -> None:
        """Begin a point of the grid."""
        self.now = Tick(at_ms, seq, tuple(group.id.key for group in self.groups.live()))

    def request(self, cursor: int = 0, *, drained: bool = True) -> list[str] | None:
        """Job and name of each sample of the next request."""
        request = self.hold.request(turn(cursor, drained=drained))
        return None if request is None else [f"{job}:{name}" for job, name, _ in samples(request)]

    def rest(self) -> list[list[str]]:
        """Every request that is left of the round, each of them taken."""
        found = []
        while (names := self.request()) is not None:
            found.append(names)
            self.hold.sent()
        return found


def samples(request: HeldRequest) -> list[tuple[str, str, int]]:
    """Job, name and time of what a request holds."""
    fields = [decode_sample(data) for data in split_series(snappy_block.decompress(request.block, 1 << 20))]
    assert len(fields) == request.samples
    return [(dict(labels_of(head)).get("job", ""), name_of(head), stamp_ms) for head, _, stamp_ms in fields]


def gauges(job: str) -> list[str]:
    """The push times of a job."""
    return [f"{job}:push_time_seconds", f"{job}:push_failure_time_seconds"]


def test_requests_are_full_and_cover_every_group_once() -> None:
    """Groups are joined and cut up into requests of the most samples, the agent's own series first."""
    bench = Bench(pushed("a 1\n", job="x"), pushed("b 1\nc 2\nd 3\ne 4\nf 5\n", job="y"), own=True)
    bench.tick()
    wanted = [":own", *gauges("x"), "x:a", *gauges("y"), *(f"y:{name}" for name in "bcdef")]
    found = bench.rest()
    assert [name for names in found for name in names] == wanted
    assert [len(names) for names in found] == [3, 3, 3, 2]
    assert bench.request() is None


def test_a_group_larger_than_any_request() -> None:
    """A group of more series than a request takes goes out in several, each series once."""
    body = "".join(f"m{number} {number}\n" for number in range(5000))
    bench = Bench(pushed(body, job="x"), max_samples=2000)
    bench.tick()
    found = bench.rest()
    assert [len(names) for names in found] == [2000, 2000, 1002]
    assert len({name for names in found for name in names}) == 5002


def test_every_repeat_has_the_time_of_the_tick() -> None:
    """Repeats stand on the grid, to the millisecond."""
    bench = Bench(pushed("a 1\n"))
    bench.tick()
    request = bench.hold.request(turn(0, drained=True))
    assert request is not None
    assert {stamp_ms for _, _, stamp_ms in samples(request)} == {AT_MS}


def test_a_request_stays_until_it_is_sent() -> None:
    """A request that failed comes again, and the round goes on behind it only once it was taken."""
    bench = Bench(pushed("a 1\n", job="x"), pushed("b 1\n", job="y"))
    bench.tick()
    first = bench.hold.request(turn(0, drained=True))
    assert bench.hold.request(turn(0, drained=True)) == first
    bench.hold.sent()
    assert bench.request() == [*gauges("y"), "y:b"]


@pytest.mark.parametrize("what", ["pushed", "refused", "expired", "deleted"])
def test_a_group_that_changed_since_the_tick_is_passed_over(what: str) -> None:
    """What is newer than the tick is on its way in the journal, so nothing older follows, even in mid-group."""
    bench = Bench(pushed("a 1\nb 1\nc 1\n", job="x"), pushed("d 1\n", job="y"))
    bench.tick()
    assert bench.request() == [*gauges("x"), "x:a"]
    bench.hold.sent()
    group, later_ms = bench.groups.get(key_of((("job", "x"),))), AT_MS + 1
    changes = {
        "pushed": lambda: change("a 2\n", group=group, at_ms=later_ms),
        "refused": lambda: refuse(group, later_ms),
        "expired": lambda: end(group, later_ms),
        "deleted": lambda: delete(group, later_ms),
    }
    bench.groups.publish([changes[what]().group])
    assert bench.rest() == [[*gauges("y"), "y:d"]]


def test_a_group_that_came_after_the_tick_waits_for_the_next() -> None:
    """A new group has its first sample still to come, even if the clock was set back before it came."""
    bench = Bench()
    bench.tick()
    bench.groups.publish([pushed("a 1\n")])
    assert bench.request() is None
    bench.tick(AT_MS + 60_000)
    assert bench.request() == [*gauges("a"), "a:a"]


def test_the_journal_comes_first() -> None:
    """A target that has not all rows from before the tick gets no repeats, unless there is nothing left to get."""
    bench = Bench(pushed("a 1\n"))
    bench.tick(seq=7)
    assert bench.request(6, drained=False) is None
    assert bench.request(7, drained=False) is not None
    assert bench.request(6, drained=True) is not None


def test_a_target_that_was_away_gets_the_newest_point_only() -> None:
    """Points that passed while a target was away are left out: there is no pile of repeats."""
    bench = Bench(pushed("a 1\n"))
    for at_ms in range(AT_MS, AT_MS + 600_000, 60_000):
        bench.tick(at_ms, seq=5)
        assert bench.request(4, drained=False) is None
    request = bench.hold.request(turn(5, drained=False))
    assert request is not None
    assert {stamp_ms for _, _, stamp_ms in samples(request)} == {AT_MS + 540_000}
    bench.hold.sent()
    assert bench.request() is None


def test_a_target_slower_than_the_interval_gets_all_groups_in_turn() -> None:
    """A round that a tick ends goes on with the groups that it did not reach, the agent's own series first."""
    bench = Bench(*(pushed("m 1\n", job=job) for job in "uvwxy"), own=True, max_samples=7)
    jobs = []
    for at_ms in range(AT_MS, AT_MS + 300_000, 60_000):
        bench.tick(at_ms)
        jobs.append("".join(name[0] for name in bench.request() or () if name.endswith("m")))
        bench.hold.sent()
    assert jobs == ["uv", "wx", "yu", "vw", "xy"]


def test_a_request_that_a_target_never_takes_holds_up_one_round() -> None:
    """The groups of a request that keeps failing are left behind at the next tick, and the others get their turn."""
    bench = Bench(*(pushed("m 1\n", job=job) for job in "xyz"))
    bench.tick()
    for _ in range(3):
        assert (bench.request() or [])[0].startswith("x:")
    bench.tick(AT_MS + 60_000)
    assert [names[0][0] for names in bench.rest()] == ["y", "z", "x"]


def test_a_start_repeats_the_newest_point_of_the_last_life() -> None:
    """An agent that ended before all repeats of a point were sent sends that point again, not its own series."""
    groups = Groups()
    groups.publish([pushed("a 1\n")])
    tick = Tick(AT_MS, 5, (key_of((("job", "a"),)),))
    own = [make_head(label_bytes([("__name__", "own")]))], [value_bytes(1)]
    hold = TargetHold(groups, lambda: tick, 10, lambda _: [("", own)])
    request = hold.request(turn(5, drained=False))
    assert request is not None
    assert [name for _, name, _ in samples(request)] == [*PUSH_TIMES, "a"]
