"""Dead letters sent again: what is taken, what is left with which words, and when it gives up."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from bridge.delivery.batch import Request
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from bridge.delivery.resend import Clock, Resent, Way, resend
from bridge.journal.rows import DeadLetter
from tests.delivery.peers import Clock as FakeClock
from tests.delivery.peers import Seen, decode, entry

Judge = Callable[[set[str]], Outcome]
TAKEN = Delivered(204)
NO = Rejected(400, "no")
PROBE = entry(99, "probe").body


def letter(number: int, *names: str, tenant: str = "", maybe_stored: bool = False) -> DeadLetter:
    body = entry(number, *names).body
    return DeadLetter(7, len(names), 400, "first", maybe_stored, body, tenant, "t", 5, number)


def refusing(*bad: str) -> Judge:
    return lambda names: NO if names & set(bad) else TAKEN


@dataclass
class Target:
    """A client whose answers follow from the names in a request, or come one after the other."""

    judge: Judge = lambda _: TAKEN
    answers: list[Outcome] = field(default_factory=list)
    by_tenant: dict[str, Outcome] = field(default_factory=dict)
    """Stands over the others."""
    sent: list[list[str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    seconds: float = 0.0
    """How long an answer takes."""

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Judge a request, and note it."""
        assert attempt >= 0
        names = [name for name, _, _ in decode(block)]
        self.sent.append(names)
        self.tenants.append(tenant)
        self.clock.now_s += self.seconds
        outcome = self.by_tenant.get(tenant) or (self.answers.pop(0) if self.answers else self.judge(set(names)))
        if isinstance(outcome, Delivered):
            self.taken += names
        return outcome

    async def resend(self, *letters: DeadLetter, max_samples: int = 100) -> Resent:
        """Send letters to it."""
        way = Way("t", "http://u:p@t/", self, Seen(), lambda: Request(PROBE, 1), max_samples, 0.03)
        return await resend(letters, way, Clock(self.clock, self.clock.sleep, lambda: 1.0))


async def test_all_of_it_is_taken() -> None:
    """Letters go in few requests, in their order."""
    target = Target()
    done = await target.resend(letter(1, "a"), letter(2, "b", "c"), letter(3, "d"))
    assert done == Resent(taken=[1, 2, 3], samples=4)
    assert target.sent == [["a", "b", "c", "d"]]


async def test_what_is_refused_again_is_left_alone() -> None:
    """The bad samples stay, with the newest words; their neighbours are delivered, those of their letter too."""
    target = Target(refusing("b", "d"))
    letters = letter(1, "a"), letter(2, "b", "c", "d"), letter(3, "e")
    done = await target.resend(*letters)
    (left,) = done.left
    assert (done.taken, done.samples, dict(done.refused)) == ([1, 3], 3, {(400, "no"): 2})
    assert left == replace(letters[1], samples=2, words="no", body=left.body)
    assert [name for name, _, _ in decode(left.body)] == ["b", "d"]
    assert sorted(target.taken) == ["a", "c", "e"]


async def test_a_letter_over_several_requests() -> None:
    """A letter that is cut is settled with its last part."""
    target = Target(refusing("d"))
    done = await target.resend(letter(1, "a", "b", "c", "d", "e"), max_samples=2)
    (left,) = done.left
    assert (done.taken, done.samples, left.samples, decode(left.body)) == ([], 4, 1, [("d", 1.0, 1)])


async def test_tenants_are_apart() -> None:
    """Each request is of one tenant."""
    target = Target()
    done = await target.resend(letter(1, "a", tenant="x"), letter(2, "b", tenant="y"), letter(3, "c", tenant="x"))
    assert sorted(done.taken) == [1, 2, 3]
    assert sorted(zip(target.tenants, target.sent, strict=True)) == [("x", ["a", "c"]), ("y", ["b"])]


async def test_damaged_letters_are_passed_over() -> None:
    """What cannot be read, or holds another number of samples than it says, harms no other letter."""
    broken = replace(letter(1, "a"), body=b"\xff\xff"), replace(letter(2, "b"), samples=2), letter(4)
    done = await Target().resend(*broken, letter(3, "c"))
    assert done == Resent(taken=[3], samples=1, damaged=[1, 2, 4])


@pytest.mark.parametrize(
    ("answer", "tries", "maybe_stored"),
    [
        (RetryLater(None, 503, "busy"), 12, True),
        (RetryLater(None, None, "away"), 12, True),
        (RetryLater(None, 429, "slow down"), 12, False),
        (RetryLater(60.0, 429, "slow down"), 1, False),
        (Rejected(401, "who?"), 1, False),
    ],
)
async def test_it_gives_up_when_nothing_is_taken(answer: Outcome, tries: int, maybe_stored: bool) -> None:
    """After some tries, or at once when that is of no use; letters stay as they are, but for what may be stored."""
    target = Target(lambda _: answer)
    letters = letter(1, "a"), letter(2, "b")
    done = await target.resend(*letters, max_samples=1)
    words = "no answer: away" if answer.status is None else f"{answer.status}: {getattr(answer, 'words', '')}"
    assert done == Resent(left=[letter(1, "a", maybe_stored=True)] if maybe_stored else [], stopped={"": words})
    assert target.sent == [["a"]] * tries
    assert target.clock.now_s < 15


async def test_a_slow_failure_is_not_waited_for_long() -> None:
    """A target that lets every request run into its timeout is asked once only."""
    target = Target(lambda _: RetryLater(None, None, "timeout"), seconds=30.0)
    assert (await target.resend(letter(1, "a"))).stopped == {"": "no answer: timeout"}
    assert len(target.sent) == 1


@pytest.mark.parametrize(
    "answer", [RetryLater(None, None, "away"), RetryLater(60.0, 429, "wait"), Rejected(401, "who?")]
)
async def test_a_tenant_that_is_not_taken_holds_up_no_other(answer: Outcome) -> None:
    """Its letters stay, and it is told why; those of the others before, between and behind them are sent."""
    target = Target(by_tenant={"x": answer})
    letters = [
        letter(number, f"n{number}", tenant=tenant) for number, tenant in enumerate(("x", "y", "x", "", "x", "y"))
    ]
    done = await target.resend(*letters, max_samples=1)
    assert (sorted(done.taken), list(done.stopped)) == ([1, 3, 5], ["x"])
    assert [name for name in target.taken if name != "n3"] == ["n1", "n5"]
    assert {name for names in target.sent for name in names} == {"n0", "n1", "n3", "n5"}


async def test_tenants_run_into_timeouts_together() -> None:
    """With many tenants, a target that answers nobody is waited for as long as with one."""
    everybody = asyncio.Barrier(50)

    class Silent(Target):
        async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
            await everybody.wait()
            return await super().send(block, attempt, tenant)

    target = Silent(lambda _: RetryLater(None, None, "timeout"), seconds=30.0)
    async with asyncio.timeout(10):
        done = await target.resend(*(letter(number, "a", tenant=f"x{number}") for number in range(50)))
    assert done.stopped == {f"x{number}": "no answer: timeout" for number in range(50)}
    assert len(target.sent) == 50


@pytest.mark.parametrize(("max_samples", "answers"), [(2, [TAKEN]), (4, [NO, TAKEN])])
async def test_a_letter_of_which_a_part_is_taken_says_so_when_it_stays(
    max_samples: int, answers: list[Outcome]
) -> None:
    """One part arrived, of a letter over several requests or of one that was split, and then nothing was taken."""
    target = Target(answers=[*answers, Rejected(401, "who?")])
    parts = letter(1, "a", "b", "c", "d")
    done = await target.resend(parts, max_samples=max_samples)
    assert done == Resent(left=[replace(parts, maybe_stored=True)], stopped={"": "401: who?"})


async def test_a_doubt_that_is_over_marks_no_other_letter() -> None:
    """A request without an answer that is taken later says nothing about the one behind it."""
    target = Target(answers=[RetryLater(None, 503, "busy"), TAKEN, Rejected(401, "who?")])
    done = await target.resend(letter(1, "a"), letter(2, "b"), max_samples=1)
    assert done == Resent(taken=[1], samples=1, stopped={"": "401: who?"})


async def test_a_short_trouble_is_waited_out() -> None:
    """A retry that is taken settles the letter."""
    target = Target(answers=[RetryLater(None, 503, "busy")] * 3)
    assert await target.resend(letter(1, "a")) == Resent(taken=[1], samples=1)


async def test_a_500_for_bad_data_is_a_refusal() -> None:
    """Receivers that answer 500 to the data, and take a probe, do not hold up the letters behind."""
    target = Target(lambda names: RetryLater(None, 500, "bug") if "a" in names else TAKEN)
    done = await target.resend(letter(1, "a"), letter(2, "b"), max_samples=1)
    assert (done.taken, [left.words for left in done.left], done.stopped) == ([2], ["bug"], {})
    assert [left.maybe_stored for left in done.left] == [True]
