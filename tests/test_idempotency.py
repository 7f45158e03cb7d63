"""Idempotency keys over a real journal: what counts as the same push, for how long, and what never uses up a key."""

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import snappy

from bridge.errors import BadPushError, JournalUnavailableError, KeyReusedError
from bridge.groups import key_of
from bridge.ingress.terms import Terms
from bridge.journal import notes
from bridge.journal.committer import KEY_LIFE_MS
from bridge.model import Labels
from bridge.pipeline import Push, Receipt, accept, end_group
from tests.journal.test_committer import MIB, NOW_MS, Bench, Gate, committing, locked, under_way
from tests.journal.test_committer import put as put_job
from tests.test_pipeline import JOB, OPTIONS, OTHER, group, held, post, put, sent, take

Ask = Callable[[Bench], "asyncio.Future[Receipt]"]


def keyed(push: Push, key: str = "key") -> Push:
    return replace(push, terms=Terms(key=key))


def told(receipt: Receipt) -> tuple[int, int, bool]:
    return receipt.first_seq, receipt.last_seq, receipt.replayed


async def end(bench: Bench, key: str = "key", grouping: Labels = JOB) -> Receipt:
    return await end_group(grouping, bench.committer, Terms(key=key))


async def test_the_same_push_again_changes_nothing(tmp_path: Path) -> None:
    """A repetition gives the rows of the first time and leaves journal, group and times as they are."""
    async with committing(tmp_path) as bench:
        first = await take(bench, keyed(put("a 1\nb 2\n")))
        assert told(first) == (1, 1, False)
        before = bench.state()
        again = await take(bench, keyed(put("a 1\nb 2\n")))
        assert (told(again), again.series) == ((1, 1, True), 2)
        assert bench.state() == before


async def test_what_others_did_in_between_stays(tmp_path: Path) -> None:
    """A repetition that comes late does not bring its values back, be the group changed, ended or filled anew."""
    async with committing(tmp_path) as bench:
        await take(bench, keyed(put("a 1\n")))
        await take(bench, put("a 2\n"))
        assert told(await take(bench, keyed(put("a 1\n")))) == (1, 1, True)
        assert held(bench) == {"a": 2.0}
        await end_group(JOB, bench.committer)
        assert (await take(bench, keyed(put("a 1\n")))).replayed
        assert not group(bench).live
        await take(bench, post("c 3\n"))
        assert (await take(bench, keyed(put("a 1\n")))).replayed
        assert held(bench) == {"c": 3.0}


@pytest.mark.parametrize(
    "body",
    [
        (gzip.compress(b"a 1\n", 1, mtime=1), "gzip"),
        (gzip.compress(b"a 1\n", 9, mtime=2), "gzip"),
        (snappy.compress(b"a 1\n"), "snappy"),
        (snappy.StreamCompressor().compress(b"a 1\n"), "snappy"),
    ],
    ids=["gzip", "gzip again", "snappy block", "snappy framed"],
)
async def test_a_body_is_what_it_decodes_to(tmp_path: Path, body: tuple[bytes, str]) -> None:
    """However a client compresses its body this time, it is the same push."""
    async with committing(tmp_path) as bench:
        await take(bench, keyed(put("a 1\n")))
        data, encoding = body
        assert (await take(bench, keyed(put(data, content_encoding=encoding)))).replayed


OTHERS: dict[str, Ask] = {
    "value": lambda bench: asyncio.ensure_future(take(bench, keyed(put("a 2\n")))),
    "spelling": lambda bench: asyncio.ensure_future(take(bench, keyed(put("a 1.0\n")))),
    "empty": lambda bench: asyncio.ensure_future(take(bench, keyed(put("")))),
    "method": lambda bench: asyncio.ensure_future(take(bench, keyed(post("a 1\n")))),
    "delete": lambda bench: asyncio.ensure_future(end(bench)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_another_push_under_the_same_key_is_refused(tmp_path: Path, other: Ask) -> None:
    """It changes nothing, not even the failure time: what the key stands for was taken, and stays what it is."""
    async with committing(tmp_path) as bench:
        await take(bench, keyed(put("a 1\n")))
        before = bench.state()
        with pytest.raises(KeyReusedError, match=r"^Idempotency-Key 'key': it came with another push"):
            await other(bench)
        assert bench.state() == before
        assert group(bench).last_push_successful
        assert (await take(bench, keyed(put("a 1\n")))).replayed


async def test_keys_belong_to_a_group(tmp_path: Path) -> None:
    """The same key means something else in another group, and groups differ in every label."""
    async with committing(tmp_path) as bench:
        await take(bench, keyed(put("a 1\n")))
        assert told(await take(bench, keyed(put("a 1\n", OTHER)))) == (2, 2, False)
        assert told(await take(bench, keyed(put("a 2\n", (("job", "k"),))))) == (3, 3, False)
        assert (await take(bench, keyed(put("a 1\n", OTHER)))).replayed


async def test_an_end_is_repeated_too(tmp_path: Path) -> None:
    """A DELETE with a key ends its group once, though the group is there again; one that ended nothing stays that."""
    async with committing(tmp_path) as bench:
        assert told(await end(bench, "early")) == (0, 0, False)
        await take(bench, put("a 1\n"))
        assert told(await end(bench, "early")) == (0, 0, True)
        assert told(await end(bench)) == (2, 2, False)
        await take(bench, put("a 2\n"))
        assert told(await end(bench)) == (2, 2, True)
        assert held(bench) == {"a": 2.0}
        with pytest.raises(KeyReusedError):
            await take(bench, keyed(put("")))


async def test_a_key_lives_for_a_day(tmp_path: Path) -> None:
    """Until 24 hours have passed a repetition is one; afterwards it is a new push, be the key trimmed or not."""
    now = [NOW_MS]
    async with committing(tmp_path, now_ms=lambda: now[0]) as bench:
        await take(bench, keyed(put("a 1\n")))
        now[0] += KEY_LIFE_MS - 1
        await bench.committer.trim(0)
        assert (await take(bench, keyed(put("a 1\n")))).replayed
        now[0] += 1
        assert told(await take(bench, keyed(put("a 2\n")))) == (2, 2, False)
        now[0] += KEY_LIFE_MS + 1
        await bench.committer.trim(0)
        assert bench.journal.find_key(key_of(JOB), "key") is None
        assert told(await take(bench, keyed(put("a 2\n")))) == (3, 3, False)


async def test_a_clock_that_steps_back_forgets_nothing(tmp_path: Path) -> None:
    """A key of the future is a known key."""
    now = [NOW_MS]
    async with committing(tmp_path, now_ms=lambda: now[0]) as bench:
        await take(bench, keyed(put("a 1\n")))
        now[0] -= 10 * KEY_LIFE_MS
        await bench.committer.trim(0)
        assert (await take(bench, keyed(put("a 1\n")))).replayed


async def test_keys_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest keys are forgotten, so that a repetition of those is a push."""
    monkeypatch.setattr(notes, "MOST_KEYS", 5)
    async with committing(tmp_path) as bench:
        for number in range(8):
            await take(bench, keyed(put("a 1\n"), f"key {number}"))
        await bench.committer.trim(1000)
        replayed = [(await take(bench, keyed(put("a 1\n"), f"key {number}"))).replayed for number in range(8)]
        assert replayed == [False] * 3 + [True] * 5


async def test_keys_give_way_in_a_full_journal(tmp_path: Path) -> None:
    """A journal that is full of keys over the bound takes pushes again without waiting for the next trim."""
    async with committing(tmp_path, max_bytes=MIB) as bench:
        for number in range(2000):
            await take(bench, keyed(put(f"a {number}\n"), f"{number:0255}"))
        assert bench.seen.failures == []
        assert (await take(bench, keyed(put("a 1999\n"), f"{1999:0255}"))).replayed
        assert not (await take(bench, keyed(put("a 0\n"), f"{0:0255}"))).replayed


@pytest.mark.parametrize("bad", ["a eins\n", "a 1\na 1\n", 'a{instance="i"} 1\n'], ids=["syntax", "twice", "foreign"])
async def test_a_refused_push_does_not_use_up_its_key(tmp_path: Path, bad: str) -> None:
    """What was refused may be repaired and sent under the same key; refused again it is refused again."""
    async with committing(tmp_path) as bench:
        await take(bench, put("a 1\n", OTHER))
        for _ in range(2):
            with pytest.raises(BadPushError):
                await take(bench, keyed(put(bad)))
        receipt = await take(bench, keyed(put("a 1\n")))
        assert not receipt.replayed
        assert held(bench) == {"a": 1.0}
        assert (await take(bench, keyed(put("a 1\n")))).replayed


async def test_a_push_that_could_not_be_written_does_not_use_up_its_key(tmp_path: Path) -> None:
    """The retry after a disk fault is the push itself."""
    async with committing(tmp_path) as bench:
        with locked(bench.journal.path), pytest.raises(JournalUnavailableError):
            await take(bench, keyed(put("a 1\n")))
        assert told(await take(bench, keyed(put("a 1\n")))) == (1, 1, False)
        assert (await take(bench, keyed(put("a 1\n")))).replayed


async def together(bench: Bench, monkeypatch: pytest.MonkeyPatch, *pushes: Push) -> list[Receipt | BaseException]:
    """Have pushes share one transaction: they come while another one is being written."""
    with monkeypatch.context() as patch:
        gate = Gate(bench.journal, patch)
        first = await under_way(bench, put_job("before"))
        await gate.reached()
        answers = [asyncio.ensure_future(take(bench, push)) for push in pushes]
        for _ in range(5):
            await asyncio.sleep(0)
        commits = len(bench.seen.commits)
        gate.open()
        results = await asyncio.gather(*answers, return_exceptions=True)
        await asyncio.gather(*first)
        assert bench.seen.commits[commits:] == [1, len(pushes)]
    return results


async def test_a_repetition_in_the_same_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the same that arrive at once are one push, and a third that differs is refused beside them."""
    async with committing(tmp_path) as bench:
        one, two, other, fresh = await together(
            bench,
            monkeypatch,
            keyed(put("a 1\n")),
            keyed(put("a 1\n")),
            keyed(put("a 2\n")),
            keyed(put("a 3\n"), "fresh"),
        )
        assert isinstance(one, Receipt)
        assert isinstance(two, Receipt)
        assert (told(one), told(two)) == ((2, 2, False), (2, 2, True))
        assert isinstance(other, KeyReusedError)
        assert isinstance(fresh, Receipt)
        assert [value for name, value, _ in sent(bench, 1) if name == "a"] == [1.0, 3.0]


async def test_nobody_is_told_of_a_push_that_was_not_kept(tmp_path: Path) -> None:
    """When the transaction fails, a repetition and another push in it are no conflict: all are asked to come back."""
    async with committing(tmp_path) as bench:
        with locked(bench.journal.path):
            asked = [take(bench, keyed(put(f"a {value}\n"))) for value in (1, 1, 2)]
            results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results] == [JournalUnavailableError] * 3


async def test_keys_survive_a_restart(tmp_path: Path) -> None:
    """A repetition after a restart is one, with the rows of the first time."""
    async with committing(tmp_path) as bench:
        await take(bench, put("b 1\n", OTHER))
        receipt = await take(bench, keyed(put("a 1\n")))
    async with committing(tmp_path) as bench:
        before = bench.rows()
        assert told(await take(bench, keyed(put("a 1\n")))) == (receipt.first_seq, receipt.last_seq, True)
        with pytest.raises(KeyReusedError):
            await take(bench, keyed(put("a 2\n")))
        assert bench.rows() == before


async def test_a_repetition_does_not_lengthen_a_life(tmp_path: Path) -> None:
    """The TTL that a repetition asks for is not read: what it stands for has one."""
    async with committing(tmp_path) as bench:
        await take(bench, replace(put("a 1\n"), terms=Terms(key="key", ttl_ms=60_000)))
        before = bench.state()
        again = await accept(
            replace(put("a 1\n"), terms=Terms(key="key", ttl_ms=900_000)), bench.committer, OPTIONS, NOW_MS + 5
        )
        assert again.replayed
        assert bench.state() == before


PUSHED_S, FAILED_S = NOW_MS / 1000 - 3600, NOW_MS / 1000 - 1800.25
TIMES = f"push_time_seconds {PUSHED_S!r}\npush_failure_time_seconds {FAILED_S!r}\n"


def imported(body: str) -> Push:
    return replace(put(body), terms=Terms(imported=True))


async def test_an_import_brings_its_times(tmp_path: Path) -> None:
    """The group's push and failure time are those of the body, in the gauges too; the samples have the time of now."""
    async with committing(tmp_path) as bench:
        await take(bench, imported(f"a 1\n{TIMES}"))
        assert (group(bench).push_ms, group(bench).failure_ms) == (NOW_MS - 3_600_000, NOW_MS - 1_800_250)
        assert sent(bench) == [
            ("a", 1.0, NOW_MS),
            ("push_time_seconds", PUSHED_S, NOW_MS),
            ("push_failure_time_seconds", FAILED_S, NOW_MS),
        ]
        await take(bench, put("a 2\n"))
        assert (group(bench).push_ms, group(bench).failure_ms) == (NOW_MS + 1, NOW_MS - 1_800_250)
    async with committing(tmp_path) as bench:
        assert (group(bench).push_ms, group(bench).failure_ms) == (NOW_MS + 1, NOW_MS - 1_800_250)


@pytest.mark.parametrize(
    ("body", "push_ms", "failure_ms"),
    [
        ("a 1\n", NOW_MS, 0),
        ("a 1\npush_time_seconds 0\n", 0, 0),
        ("a 1\npush_failure_time_seconds 1.5\n", NOW_MS, 1500),
        (f"push_time_seconds {NOW_MS / 1000!r}\n", NOW_MS, 0),
    ],
    ids=["none", "never", "failure", "now"],
)
async def test_times_that_an_import_leaves_out(tmp_path: Path, body: str, push_ms: int, failure_ms: int) -> None:
    """A time that is missing is that of the push itself; 0 is never, and this very millisecond is not the future."""
    async with committing(tmp_path) as bench:
        await take(bench, imported(body))
        assert (group(bench).push_ms, group(bench).failure_ms) == (push_ms, failure_ms)


@pytest.mark.parametrize("name", ["push_time_seconds", "push_failure_time_seconds"])
@pytest.mark.parametrize("value", ["-1", f"{NOW_MS / 1000 + 0.001:.3f}", "NaN", "+Inf", "-Inf", "1e300"])
async def test_times_that_cannot_be(tmp_path: Path, name: str, value: str) -> None:
    """A time before 1970 or in the future, and none at all, refuses the import by name; the group keeps what it had."""
    async with committing(tmp_path) as bench:
        await take(bench, put("a 1\n"))
        with pytest.raises(BadPushError, match=f"^X-Push-Import: {name}: got .*, want seconds since 1970 that are not"):
            await take(bench, imported(f"a 2\n{name} {value}\n"))
        assert (held(bench), group(bench).push_ms, group(bench).last_push_successful) == ({"a": 1.0}, NOW_MS, False)


async def test_times_mean_nothing_without_import(tmp_path: Path) -> None:
    """A push that carries the gauges and does not say that it is an import has the time of its arrival."""
    async with committing(tmp_path) as bench:
        await take(bench, put(f"a 1\n{TIMES}"))
        assert (group(bench).push_ms, group(bench).failure_ms) == (NOW_MS, 0)
