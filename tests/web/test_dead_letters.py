"""/api/v1/dead-letters of a whole agent: what is told, what is deleted and sent again, and what is refused."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.groups import key_of
from bridge.journal.rows import Batch, CursorRow, DeadLetter, Record
from bridge.journal.store import Journal
from bridge.wire import snappy_block
from tests.journal.test_committer import MIB, locked
from tests.made import encode_series
from tests.test_peer import serving
from tests.web.test_receipts import Target, is_refused, target
from tests.web.test_server import Site, running

LETTERS = "/api/v1/dead-letters"
AT_MS = 1_700_000_000_000
KEEPING: dict[str, object] = {"dead_letter_retention": "100y"}
NOTHING = {
    "dry_run": False,
    "letters": 0,
    "taken": 0,
    "refused": [],
    "damaged": [],
    "stopped": [],
    "next": None,
}


def body(*names: str) -> bytes:
    """A row of these series."""
    return snappy_block.compress(
        b"".join(encode_series([("__name__", name), ("instance", "i"), ("job", "j")], 1.0, AT_MS) for name in names)
    )


def letter(*names: str, of: str = "t0", seq: int = 9) -> DeadLetter:
    """A letter of a row that the journal has forgotten, unless `seq` names another."""
    return DeadLetter(seq, len(names), 400, "no", False, body(*names), "", of, AT_MS)


FEW, MANY = letter("a"), letter(*(f"n{number:02}" for number in range(11)))
ELSEWHERE, KNOWN = letter("b", of="gone"), letter("c", seq=1)


@pytest.fixture
async def receiver() -> AsyncIterator[Target]:
    """A target that takes everything, until it is told otherwise."""
    async with target() as made:
        yield made


@pytest.fixture
async def site(tmp_path: Path, receiver: Target) -> AsyncIterator[Site]:
    """An agent whose journal has four letters, one of them of a target that is gone."""
    journal = Journal.open(tmp_path, max_bytes=64 * MIB, now_ms=AT_MS)
    row = Record(AT_MS, key_of((("job", "j"), ("team", "x"))), "put", 1, body("c"))
    cursor = CursorRow("t0", 1, 0, 0, (), (("http_400", 14),))
    journal.write(Batch((row,), cursors=(cursor,), letters=(FEW, MANY, ELSEWHERE, KNOWN)))
    journal.commit()
    journal.close()
    async with running(tmp_path, receiver.url, storage=KEEPING) as started:
        yield started


@asynccontextmanager
async def site_with(directory: Path, url: str, *tenants: str) -> AsyncIterator[Site]:
    """An agent with one target, and a letter of each of these tenants."""
    journal = Journal.open(directory, max_bytes=64 * MIB, now_ms=AT_MS)
    letters = tuple(replace(FEW, tenant=tenant) for tenant in tenants)
    journal.write(Batch(cursors=(CursorRow("t0", 0, 0, 0, ()),), letters=letters))
    journal.commit()
    journal.close()
    async with running(directory, url, storage=KEEPING) as started:
        yield started


async def data(site: Site, query: str = "", method: str = "GET", path: str = LETTERS) -> Any:
    """Content of an answer that has to be a success."""
    answer = await site.ask(method, f"{path}{query}")
    assert answer.status == 200, answer
    document = json.loads(answer.text)
    assert document["status"] == "success"
    return document["data"]


async def replay(site: Site, query: str) -> Any:
    """What a replay tells."""
    return await data(site, query, "POST", f"{LETTERS}/replay")


async def ids(site: Site, query: str = "") -> list[int]:
    """Numbers of the letters that are listed."""
    return [one["id"] for one in await data(site, query)]


async def test_newest_first(site: Site) -> None:
    """Letters are listed page by page, of one target if it is named."""
    assert await ids(site) == [4, 3, 2, 1]
    assert await ids(site, "?limit=2") == [4, 3]
    assert await ids(site, "?limit=2&before=3") == [2, 1]
    assert await ids(site, "?target=t0") == [4, 2, 1]
    assert await ids(site, "?target=none") == []


async def test_where_a_letter_comes_from(site: Site) -> None:
    """The group's labels and the push while the journal has them, afterwards what the samples tell."""
    known, _, _, few = await data(site)
    assert known["push"].endswith("-1")
    assert (known["labels"], few["labels"]) == ({"job": "j", "team": "x"}, {"job": "j", "instance": "i"})
    assert few["push"] is None


async def test_series_of_large_letters_are_asked_for(site: Site) -> None:
    """A letter with many samples comes without them, but for `samples=true` and by its number."""
    assert [one["series"] is None for one in await data(site)] == [False, False, True, False]
    for shown in (await data(site, "?samples=true"))[2], await data(site, path=f"{LETTERS}/2"):
        assert [one["labels"]["__name__"] for one in shown["series"]] == [f"n{number:02}" for number in range(11)]
    for unknown in ("5", "0", "x", "", "9" * 30):
        answer = await site.ask("GET", f"{LETTERS}/{unknown}")
        words = f"dead letter {unknown!r} is not kept, or no longer (storage.dead_letter_retention)"
        assert is_refused(answer, 404, "not_found", words)


async def test_delete_only_counts_until_it_is_confirmed(site: Site) -> None:
    """A DELETE tells what would go, and deletes what meets all that is named when it is confirmed."""
    told = {"dry_run": True, "deleted": 0, "letters": 3, "samples": 13}
    assert await data(site, "?target=t0", "DELETE") == told
    assert await data(site, "?target=t0&confirm=false", "DELETE") == told
    assert await data(site, "?target=t0&until=1600000000&confirm=true", "DELETE") == {
        "dry_run": False,
        "deleted": 0,
        "letters": 0,
        "samples": 0,
    }
    assert await ids(site) == [4, 3, 2, 1]
    assert (await data(site, "?target=t0&before=4&until=1d&confirm=true", "DELETE"))["deleted"] == 2
    assert (await data(site, "?id=3&id=99&confirm=true", "DELETE"))["deleted"] == 1
    assert await ids(site) == [4]


async def test_replay_in_pieces(site: Site) -> None:
    """Each answer says behind which letter to go on; what was taken is gone, and the account is as before."""
    account = await site.shown("pushbridge_samples_")
    assert await replay(site, "?target=t0&dry_run=true") == {"dry_run": True, "letters": 3, "samples": 13}
    assert await replay(site, "?target=t0&limit=2") == {**NOTHING, "letters": 2, "taken": 12, "next": 2}
    assert await ids(site) == [4, 3]
    assert await replay(site, "?target=t0&limit=2&after=2") == {**NOTHING, "letters": 1, "taken": 1}
    assert await replay(site, "?target=t0") == NOTHING
    assert await ids(site) == [3]
    assert await site.shown("pushbridge_samples_") == account
    assert 'pushbridge_dead_letters_replayed_total{target="t0"} 13' in await site.shown()


async def test_replay_that_is_refused(site: Site, receiver: Target) -> None:
    """What is refused again stays with its number and the newest words; a refused sign-in changes nothing."""
    receiver.status, receiver.words = 422, "still no"
    told = await replay(site, "?id=2&id=1")
    assert told["refused"] == [{"status": 422, "words": "still no", "samples": 12}]
    assert [(one["id"], one["words"]) for one in await data(site)][-2:] == [(2, "still no"), (1, "still no")]
    receiver.status, receiver.words = 403, "not you"
    assert (await replay(site, "?target=t0"))["stopped"] == [{"tenant": "", "words": "403: not you"}]
    assert [one["words"] for one in await data(site)] == ["no", "no", "still no", "still no"]


async def test_a_tenant_that_is_refused_holds_up_no_other(tmp_path: Path) -> None:
    """It is told who was not taken and why; whoever goes on may leave tenants out, and is given the next ones."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        refused = request.headers.get("X-Scope-OrgID") in {None, "red"}
        return web.Response(status=401, text="who?") if refused else web.Response(status=204)

    tenants = ("red", "", "blue", "red", "blue", "")
    async with serving(answer) as host, site_with(tmp_path, f"http://{host}/write", *tenants) as site:
        told = await replay(site, "?target=t0&limit=4")
        stopped = [{"tenant": tenant, "words": "401: who?"} for tenant in ("", "red")]
        assert told == {**NOTHING, "letters": 4, "taken": 1, "stopped": stopped, "next": 4}
        left_out = "without_tenant=red&without_tenant="
        counted = await replay(site, f"?target=t0&{left_out}&dry_run=true")
        assert counted == {"dry_run": True, "letters": 1, "samples": 1}
        assert await replay(site, f"?target=t0&{left_out}&after=4") == {**NOTHING, "letters": 1, "taken": 1}
        assert await ids(site) == [6, 4, 2, 1]


async def test_not_very_many_tenants_at_the_same_time(tmp_path: Path, receiver: Target) -> None:
    """A request ends before the letter that is of one tenant too many, and tells where to go on."""
    tenants = [f"x{number}" for number in range(50)]
    async with site_with(tmp_path, receiver.url, *tenants, *tenants, "y", "x1") as site:
        assert await replay(site, "?target=t0") == {**NOTHING, "letters": 100, "taken": 100, "next": 100}
        assert await replay(site, "?target=t0&after=100") == {**NOTHING, "letters": 2, "taken": 2}


async def test_replay_to_nobody(site: Site) -> None:
    """A target that is not configured any more, or several at once, are refused by name."""
    gone = await site.ask("POST", f"{LETTERS}/replay?target=gone")
    assert is_refused(gone, 404, "not_found", "no remote_write target is called 'gone'; there are: t0")
    never = await site.ask("POST", f"{LETTERS}/replay?target=never")
    assert is_refused(never, 404, "not_found", "no remote_write target is called 'never'; there are: t0")
    several = await site.ask("POST", f"{LETTERS}/replay?id=1&id=3")
    words = "these letters are of 2 targets: send those of one at a time, with target=T"
    assert is_refused(several, 400, "bad_data", words)
    assert await ids(site) == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", LETTERS), ("POST", f"{LETTERS}/replay")],
)
async def test_a_slip_in_a_target_is_told(site: Site, method: str, path: str) -> None:
    """A name that no target and no letter has is 404 also where nothing would be done; a removed target's is none."""
    flag = "dry_run=true" if method == "POST" else "confirm=true"
    slip = await site.ask(method, f"{path}?target=never&{flag}")
    assert is_refused(slip, 404, "not_found", "no remote_write target is called 'never'; there are: t0")
    assert await ids(site) == [4, 3, 2, 1]
    assert (await data(site, "?target=gone", "DELETE"))["letters"] == 1
    assert (await data(site, "?target=gone&confirm=true", "DELETE"))["deleted"] == 1
    assert is_refused(
        await site.ask("DELETE", f"{LETTERS}?target=gone"),
        404,
        "not_found",
        "no remote_write target is called 'gone'; there are: t0",
    )


@pytest.mark.parametrize(
    ("method", "query", "words"),
    [
        ("GET", "?taget=t0", "unknown parameter 'taget': want target, limit, before or samples"),
        ("GET", "?limit=0", "limit: got '0', want a number from 1 to 1000"),
        ("GET", "?limit=1001", "limit: got '1001', want a number from 1 to 1000"),
        ("GET", "?before=abc", "before: got 'abc', want the id of a dead letter"),
        ("GET", "?samples=yes", "samples: got 'yes', want true or false"),
        ("GET", "?target=a&target=b", "target: got 'a' and 'b', want one value"),
        ("GET", "?target=%ff", "the query is not valid UTF-8 after percent-decoding: "),
        ("DELETE", "", "no target and no id: want target=NAME, or id=ID for each letter"),
        ("DELETE", "?confirm=true&before=9", "no target and no id: want target=NAME, or id=ID for each letter"),
        ("DELETE", "?target=t0&confirm=1", "confirm: got '1', want true or false"),
        ("DELETE", "?target=t0&until=soon", "until: got 'soon', want a duration back from now (7d), "),
        ("DELETE", "?id=0", "id: got '0', want the id of a dead letter"),
        ("DELETE", "?" + "id=1&" * 1001, "too many parameters: got 1002, want at most 1000"),
        ("DELETE", "?target=t0&limit=1", "unknown parameter 'limit': want target, id, before, until or confirm"),
        ("POST", "?before=9", "no target and no id: want target=NAME, or id=ID for each letter"),
        ("POST", "?target=t0&after=-1", "after: got '-1', want the id of a dead letter"),
        ("POST", "?target=t0&confirm=true", "unknown parameter 'confirm': want target, id, before, until, without_"),
        ("DELETE", "?target=t0&without_tenant=a", "unknown parameter 'without_tenant': want target, id, before, "),
    ],
)
async def test_questions_that_are_wrong(site: Site, method: str, query: str, words: str) -> None:
    """A slip is told, and widens nothing."""
    answer = await site.ask(method, f"{LETTERS}/replay{query}" if method == "POST" else LETTERS + query)
    document = json.loads(answer.text)
    assert (answer.status, document["errorType"]) == (400, "bad_data")
    assert document["error"].startswith(words)
    assert await ids(site) == [4, 3, 2, 1]


async def test_a_disk_that_takes_nothing(site: Site) -> None:
    """A delete that cannot be written is 503 with Retry-After, and nothing is gone."""
    with locked(site.journal):
        answer = await site.ask("DELETE", f"{LETTERS}?target=t0&confirm=true")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
    assert await ids(site) == [4, 3, 2, 1]


async def test_a_damaged_letter(tmp_path: Path, receiver: Target) -> None:
    """What cannot be read is listed without its series, told by a replay, and can be deleted."""
    journal = Journal.open(tmp_path, max_bytes=64 * MIB, now_ms=AT_MS)
    journal.write(Batch(cursors=(CursorRow("t0", 0, 0, 0, ()),), letters=(replace(FEW, body=b"\xff\xff"),)))
    journal.commit()
    journal.close()
    async with running(tmp_path, receiver.url, storage=KEEPING) as site:
        (shown,) = await data(site)
        assert (shown["series"], shown["labels"]) == (None, {})
        assert await replay(site, "?id=1") == {**NOTHING, "letters": 1, "damaged": [1]}
        assert (await data(site, "?id=1&confirm=true", "DELETE"))["deleted"] == 1
