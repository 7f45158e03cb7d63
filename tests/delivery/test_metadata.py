import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.content import FamilyShape, make_shape
from bridge.delivery.metadata import MetadataSender, MetadataTimes
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from bridge.groups import Group, group_id, key_of, store
from bridge.wire import snappy_block
from tests.made import make_content

AWAY = RetryLater(None, None, "nobody there")


def group(job: str, *families: FamilyShape) -> Group:
    content = make_content(make_shape(families, ()), ())
    return store(Group(group_id(key_of((("job", job),)), {})), content, 1, replace_all=True).group


@dataclass
class Target:
    """A client with answers, a clock that sleeping moves, and the counts."""

    answers: list[Outcome] = field(default_factory=list)
    sent: list[tuple[str, list[str]]] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    counts: list[tuple[str, int]] = field(default_factory=list)
    now_s: float = 0.0
    requests: list[pb.WriteRequest] = field(default_factory=list)

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Note the request and give the next answer."""
        request = pb.WriteRequest.FromString(snappy_block.decompress(block, 1 << 20))
        self.requests.append(request)
        self.sent.append((tenant, [one.metric_family_name for one in request.metadata]))
        self.attempts.append(attempt)
        return self.answers.pop(0) if self.answers else Delivered(204)

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.now_s += seconds
        await asyncio.sleep(0)

    def metadata_sent(self, target: str, families: int) -> None:
        """Note the count."""
        self.counts.append((target, families))

    def metadata_failed(self, target: str, reason: str, families: int) -> None:
        """Note the count with its reason."""
        self.counts.append((f"{target} {reason}", families))

    def sender(self, groups: Sequence[Group], most: int = 2000, *, tenants: bool = False) -> MetadataSender:
        """Make what is tested: 60 s between two times, pauses of 1 to 5 s."""
        return MetadataSender(
            "t",
            "http://t/",
            MetadataTimes(60.0, most, 1.0, 5.0),
            live=lambda: groups,
            tenant_of=(lambda key: key[-1:].decode()) if tenants else None,
            client=self,
            observer=self,
            clock_s=lambda: self.now_s,
            sleep=self.sleep,
            random_01=lambda: 1.0,
        )


X = FamilyShape("x_seconds", "counter", "Time.", 0, 0, "seconds")
OWN = ["push_failure_time_seconds", "push_time_seconds"]


def test_each_family_is_sent_once() -> None:
    """Families of all groups are one list by name; where groups differ the first stands; the push times are in it."""
    target = Target()
    groups = [
        group("a", X),
        group("b", FamilyShape("x_seconds", "gauge", "Other.", 0, 0), FamilyShape("b", "info", "", 0, 0)),
    ]
    asyncio.run(target.sender(groups).send_all(60.0))
    assert target.sent == [("", ["b", *OWN, "x_seconds"])]
    (request,) = target.requests
    assert request.metadata[3] == pb.MetricMetadata(
        type=pb.MetricMetadata.COUNTER, metric_family_name="x_seconds", help="Time.", unit="seconds"
    )
    assert target.counts == [("t", 4)]


def test_large_lists_are_cut() -> None:
    """No request has more families than max_samples_per_send."""
    target = Target()
    asyncio.run(target.sender([group("a", X)], most=2).send_all(60.0))
    assert target.sent == [("", OWN), ("", ["x_seconds"])]


def test_each_tenant_gets_its_own() -> None:
    """Families go where the samples of their group go."""
    target = Target()
    asyncio.run(target.sender([group("b", X), group("a")], tenants=True).send_all(60.0))
    assert target.sent == [("a", OWN), ("b", [*OWN, "x_seconds"])]


def test_nothing_is_sent_when_there_is_nothing() -> None:
    """No groups, no request; and a group that has expired has nothing to tell."""
    target = Target()
    expired = group("a", X)
    object.__setattr__(expired, "expires_ms", 0)
    asyncio.run(target.sender([expired]).send_all(60.0))
    assert target.sent == []


def test_a_receiver_that_is_away_is_tried_again_until_the_next_time() -> None:
    """Retries carry the same bytes; what is not taken within the interval is given up and counted."""
    target = Target([AWAY, AWAY])
    asyncio.run(target.sender([group("a", X)]).send_all(60.0))
    assert (target.attempts, target.counts, target.now_s) == ([0, 1, 2], [("t", 3)], 3.0)
    assert target.requests[0] == target.requests[2]
    target = Target([AWAY] * 1000)
    asyncio.run(target.sender([group("a", X)]).send_all(60.0))
    assert target.counts == [("t expired", 3)]
    assert target.now_s < 60.0


def test_a_refusal_is_final() -> None:
    """A 4xx is counted by its status and not repeated."""
    target = Target([Rejected(400, "no")])
    asyncio.run(target.sender([group("a", X)]).send_all(60.0))
    assert (target.attempts, target.counts) == ([0], [("t http_400", 3)])


async def test_the_first_time_is_after_one_interval() -> None:
    """As Prometheus does it; then it is sent again and again."""
    target = Target()
    task = asyncio.create_task(target.sender([group("a", X)]).run())
    while len(target.sent) < 3:
        assert target.now_s == 60.0 * (len(target.sent) + 1) or not target.now_s
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert target.now_s >= 180.0


async def test_many_groups_let_others_have_their_turn() -> None:
    """The loop is given up between some hundred groups."""
    target = Target()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(count())
    await target.sender([group(str(number), X) for number in range(2000)]).send_all(60.0)
    task.cancel()
    assert turns >= 4
