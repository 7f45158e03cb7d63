"""Receipts of a whole agent: what is told of a push in each state, and answers that wait for it."""

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.journal.test_committer import DEADLINE_S
from tests.test_peer import serving
from tests.web.test_server import AWAY, GENERAL, Answer, Site, running

ID = re.compile(r"[0-9a-f]{8}-[1-9][0-9]*")
WAIT = "?wait=delivered&timeout=10s"
NO_WAIT = "?wait=delivered&timeout=0"


@dataclass
class Target:
    """A receiver that answers as it is told at the moment, whatever is sent."""

    status: int = 204
    words: str = ""
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """No answer is given before it is set."""
    url: str = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        await request.read()
        await self.free.wait()
        return web.Response(status=self.status, text=self.words or None)


@asynccontextmanager
async def target(status: int = 204, words: str = "", *, free: bool = True) -> AsyncIterator[Target]:
    """Serve a target; in the end nobody waits for it."""
    made = Target(status, words)
    if free:
        made.free.set()
    async with serving(made.answer) as host:
        made.url = f"http://{host}/write"
        yield made
        made.free.set()


async def push(site: Site, job: str = "j", query: str = "", method: str = "PUT", **headers: str) -> Answer:
    """Push one value, or DELETE."""
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return await site.ask(method, f"/metrics/job/{job}{query}", None if method == "DELETE" else b"a 1\n", spelled)


async def shown(site: Site, path: str) -> Any:
    """The data of one of our API's answers."""
    answer = await site.ask("GET", f"/api/v1/pushes{path}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    return json.loads(answer.text)["data"]


async def eventually(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """Look until it is good, but not for ever; `look` may be asynchronous."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = look()
            if inspect.isawaitable(found):
                found = await found
            if good(found):
                return found
            await asyncio.sleep(0.01)


async def shown_when(site: Site, push_id: str, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Look at a receipt until its targets are as wanted."""
    found: dict[str, Any] = await eventually(lambda: shown(site, f"/{push_id}"), lambda found: good(found["targets"]))
    return found


def is_refused(answer: Answer, status: int, kind: str, words: str) -> bool:
    """Whether an answer is an error in the API's shape."""
    return (answer.status, json.loads(answer.text)) == (
        status,
        {"status": "error", "errorType": kind, "error": words},
    )


@pytest.mark.parametrize("headers", [{}, GENERAL], ids=["short way", "general way"])
async def test_every_accepted_push_has_an_id(tmp_path: Path, headers: dict[str, str]) -> None:
    """PUT, POST and DELETE are answered with the id of what they did; refusals and what did nothing have none."""
    async with running(tmp_path) as site:
        answers = [await push(site, method=method, **headers) for method in ("PUT", "POST", "DELETE")]
        assert [answer.status for answer in answers] == [200, 200, 202]
        assert [answer.text for answer in answers] == [""] * 3
        ids = [answer.headers["X-Push-Id"] for answer in answers]
        assert all(ID.fullmatch(push_id) for push_id in ids)
        assert len({push_id.partition("-")[0] for push_id in ids}) == 1
        assert [int(push_id.partition("-")[2]) for push_id in ids] == [1, 2, 3]
        nothing = [await push(site, method="DELETE", **headers), await push(site, query="?wait=x", **headers)]
        assert [(answer.status, "X-Push-Id" in answer.headers) for answer in nothing] == [(202, False), (400, False)]
        bad = await site.ask("PUT", "/metrics/job/j", b"a eins\n", headers)
        assert (bad.status, "X-Push-Id" in bad.headers) == (400, False)


@pytest.mark.parametrize("headers", [{}, GENERAL], ids=["short way", "general way"])
async def test_a_repetition_is_answered_as_the_first_time(tmp_path: Path, headers: dict[str, str]) -> None:
    """Both ways through HTTP give the same status and id, say that it was one, and refuse another push with 409."""
    async with running(tmp_path) as site:
        first = await push(site, Idempotency_Key="k", **headers)
        again = await push(site, Idempotency_Key="k", **headers)
        assert (again.status, again.headers["X-Push-Id"]) == (200, first.headers["X-Push-Id"])
        assert ("Idempotency-Replayed" in first.headers, again.headers["Idempotency-Replayed"]) == (False, "true")
        other = await push(site, method="POST", Idempotency_Key="k", **headers)
        assert (other.status, "X-Push-Id" in other.headers) == (409, False)
        assert other.text.startswith("Idempotency-Key 'k': it came with another push to this group within 24 hours;")
        assert site.count("post", "refused", "key_reused") == 1
        ended = [await push(site, method="DELETE", Idempotency_Key="end", **headers) for _ in range(2)]
        assert [answer.status for answer in ended] == [202, 202]
        assert ended[0].headers["X-Push-Id"] == ended[1].headers["X-Push-Id"]
        assert ended[1].headers["Idempotency-Replayed"] == "true"


async def test_a_receipt_tells_what_was_pushed(tmp_path: Path) -> None:
    """Id, time, method, group and number of samples, push times included; no targets when there are none."""
    async with running(tmp_path) as site:
        answer = await push(site, "j/instance/i@1", method="POST")
        receipt = await shown(site, f"/{answer.headers['X-Push-Id']}")
        (group,) = site.agent.committer.groups.live()
        assert datetime.fromisoformat(receipt.pop("time")).timestamp() * 1000 == group.push_ms
        assert receipt == {
            "id": answer.headers["X-Push-Id"],
            "method": "post",
            "labels": {"job": "j", "instance": "i@1"},
            "samples": 3,
            "targets": {},
        }


async def test_pending_then_delivered(tmp_path: Path) -> None:
    """A push is pending until its target has it, and delivered at a time that is not before it came."""
    async with target(free=False) as slow, running(tmp_path, slow.url) as site:
        push_id = (await push(site)).headers["X-Push-Id"]
        receipt = await shown(site, f"/{push_id}")
        assert receipt["targets"] == {"t0": {"state": "pending"}}
        slow.free.set()
        receipt = await shown_when(site, push_id, lambda targets: targets["t0"]["state"] == "delivered")
        assert set(receipt["targets"]["t0"]) == {"state", "at"}
        assert receipt["targets"]["t0"]["at"] >= receipt["time"]


async def test_refused_in_the_words_of_the_receiver(tmp_path: Path) -> None:
    """A push that one target takes and another refuses for good is told so, with status and words."""
    async with (
        target() as good,
        target(400, "no such tenant: zürich") as bad,
        running(tmp_path, good.url, bad.url) as site,
    ):
        push_id = (await push(site)).headers["X-Push-Id"]
        receipt = await shown_when(site, push_id, lambda found: {"state": "pending"} not in found.values())
        assert receipt["targets"]["t0"]["state"] == "delivered"
        refused = receipt["targets"]["t1"]
        assert refused.pop("at") >= receipt["time"]
        assert (refused.pop("state"), "400" in refused.pop("reason")) == ("refused", True)
        assert "no such tenant: zürich" in refused.pop("words")
        assert refused == {}


async def test_a_target_added_later_is_unknown(tmp_path: Path) -> None:
    """What was pushed before a target was added is not said to be there, nor to be on its way."""
    async with target() as receiver:
        async with running(tmp_path, receiver.url) as site:
            answer = await push(site, query=WAIT)
            assert answer.status == 200
        push_id = answer.headers["X-Push-Id"]
        async with running(tmp_path, receiver.url, receiver.url) as site:
            receipt = await shown(site, f"/{push_id}")
            assert {name: state["state"] for name, state in receipt["targets"].items()} == {
                "t0": "delivered",
                "t1": "unknown",
            }


async def test_rows_dropped_when_full_are_unknown(tmp_path: Path) -> None:
    """A push that gave way in a full journal is gone with its receipt, and its waiting sender gets no proof."""
    # So small a queue takes nothing in hand behind the push that waits for its answer.
    queue = "queue_config: {capacity: 1, max_samples_per_send: 1}"
    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(target(free=False))
        config = f"remote_write: [{{url: '{slow.url}', name: t0, {queue}}}]"
        site = await stack.enter_async_context(running(tmp_path, config=config))
        in_hand = await push(site)
        await eventually(lambda: site.agent.committer.ledger._in_hand, lambda found: found == {"t0": 1})
        dropped = asyncio.create_task(push(site, "dropped", WAIT))
        await eventually(lambda: shown(site, "?job=dropped"), bool)
        journal = site.agent.committer._journal
        await site.agent.committer.submit(lambda _: journal.drop_oldest(2))
        assert (await site.ask("GET", f"/api/v1/pushes/{in_hand.headers['X-Push-Id']}")).status == 404
        after = asyncio.create_task(push(site, "after", WAIT))
        await eventually(lambda: shown(site, ""), bool)
        slow.free.set()
        states = [json.loads((await task).text)["data"]["targets"]["t0"]["state"] for task in (dropped, after)]
        assert (states, (await dropped).status, (await after).status) == (["unknown", "delivered"], 202, 200)


@pytest.mark.parametrize(
    "push_id",
    ["{other}-1", "{own}-3", "{own}-0", "{own}-", "", "1", "{own}", "{own}-1-1", "x/{own}-1", "{own}-1/", "%00"],
)
async def test_ids_that_are_not_here(tmp_path: Path, push_id: str) -> None:
    """The id of another journal, of no push or of no form at all is 404, in words that name it and the reason."""
    async with running(tmp_path) as site:
        own, _, _ = (await push(site)).headers["X-Push-Id"].partition("-")
        other = f"{int(own, 16) ^ 1:08x}"
        asked = push_id.format(own=own, other=other)
        answer = await site.ask("GET", f"/api/v1/pushes/{asked}")
        words = f"push {asked!r}: the journal does not have it, or no longer (storage.retention)"
        assert is_refused(answer, 404, "not_found", words)


async def test_a_list_of_pushes(tmp_path: Path) -> None:
    """The newest come first, of one job if it is named, no more than asked for, and before an id if one is given."""
    async with running(tmp_path) as site:
        ids = [(await push(site, job)).headers["X-Push-Id"] for job in ("a", "b", "a", "a/b/job", "b", "a")]
        newest = ids[::-1]

        async def listed(query: str) -> list[str]:
            return [found["id"] for found in await shown(site, query)]

        assert await listed("") == newest
        assert await listed("?limit=2") == newest[:2]
        assert await listed(f"?before={newest[1]}") == newest[2:]
        assert await listed(f"?before={newest[1]}&limit=2") == newest[2:4]
        assert await listed("?job=a") == [ids[5], ids[3], ids[2], ids[0]]
        assert await listed("?job=b&limit=1") == [ids[4]]
        assert await listed(f"?job=b&before={ids[4]}") == [ids[1]]
        assert await listed("?job=nobody") == await listed(f"?before={ids[0]}") == await listed("?job=") == []
        assert (await shown(site, "?limit=1")) == [await shown(site, f"/{newest[0]}")]


async def test_a_long_list_holds_nobody_up(tmp_path: Path) -> None:
    """While a list looks through thousands of pushes others are answered."""
    async with running(tmp_path) as site:
        await asyncio.gather(*(push(site, f"j{number}") for number in range(1500)))
        listing = asyncio.create_task(shown(site, "?job=nobody"))
        turns = 0
        while not listing.done():
            turns += 1
            await asyncio.sleep(0)
        assert (await listing, turns > 3) == ([], True)
        assert len(await shown(site, "?limit=1000")) == 1000


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("jobs=a", "unknown parameter 'jobs': want job, limit or before"),
        ("job=a&wait=delivered", "unknown parameter 'wait': want job, limit or before"),
        ("limit=0", "limit: got '0', want a number from 1 to 1000"),
        ("limit=1001", "limit: got '1001', want a number from 1 to 1000"),
        ("limit=", "limit: got '', want a number from 1 to 1000"),
        ("limit=%C2%B2", "limit: got '²', want a number from 1 to 1000"),
        ("limit=-1", "limit: got '-1', want a number from 1 to 1000"),
        ("before=", "before: got '', want the id of a push"),
        ("before=00000000-1", "before: got '00000000-1', want the id of a push"),
    ],
)
async def test_a_list_that_is_not_understood(tmp_path: Path, query: str, words: str) -> None:
    """An unknown parameter or a value that is none is 400, with what was got and what is wanted."""
    async with running(tmp_path) as site:
        if site.agent.committer._journal.id != "00000000":
            assert is_refused(await site.ask("GET", f"/api/v1/pushes?{query}"), 400, "bad_data", words)


async def test_other_methods_have_nothing_here(tmp_path: Path) -> None:
    """Pushes are only looked at."""
    async with running(tmp_path) as site:
        for path in ("/api/v1/pushes", "/api/v1/pushes/x"):
            answer = await site.ask("DELETE", path)
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, OPTIONS")


@pytest.mark.parametrize("headers", [{}, GENERAL], ids=["short way", "general way"])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_an_answer_that_waits_is_proof(tmp_path: Path, method: str, headers: dict[str, str]) -> None:
    """200 with the receipt when every target has the push, the end of a group too."""
    async with target() as one, target() as two, running(tmp_path, one.url, two.url) as site:
        await push(site)
        answer = await push(site, query=WAIT, method=method, **headers)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        data = json.loads(answer.text)["data"]
        assert data["id"] == answer.headers["X-Push-Id"]
        assert {name: state["state"] for name, state in data["targets"].items()} == dict.fromkeys(
            ("t0", "t1"), "delivered"
        )


async def test_the_time_is_up(tmp_path: Path) -> None:
    """202 with the id when a target does not have it in time; the receipt tells the rest later."""
    async with target() as good, target(free=False) as slow, running(tmp_path, good.url, slow.url) as site:
        await push(site, query="?wait=delivered&timeout=1ms")
        answer = await push(site, query="?wait=delivered&timeout=300ms")
        data = json.loads(answer.text)["data"]
        assert (answer.status, data["targets"]["t1"]) == (202, {"state": "pending"})
        slow.free.set()
        await shown_when(site, data["id"], lambda found: {state["state"] for state in found.values()} == {"delivered"})


async def test_a_target_that_refused_for_good(tmp_path: Path) -> None:
    """502 with the receiver's words, and with the receipt of the others."""
    async with target() as good, target(400, "out of bounds") as bad, running(tmp_path, good.url, bad.url) as site:
        answer = await push(site, query=WAIT)
        document = json.loads(answer.text)
        assert (answer.status, document["status"], document["errorType"]) == (502, "error", "refused")
        assert re.fullmatch(r"t1 refused it for good \(.*400.*\): .*out of bounds.*", document["error"])
        assert document["data"]["id"] == answer.headers["X-Push-Id"]
        states = {name: state["state"] for name, state in document["data"]["targets"].items()}
        assert states == {"t0": "delivered", "t1": "refused"}


async def test_a_repetition_waits_too(tmp_path: Path) -> None:
    """The second try of a sender that got 202 gets its proof, for the push of the first time."""
    async with target(free=False) as slow, running(tmp_path, slow.url) as site:
        first = await push(site, query=NO_WAIT, Idempotency_Key="k")
        waiting = asyncio.create_task(push(site, query=WAIT, Idempotency_Key="k"))
        slow.free.set()
        again = await waiting
        assert (first.status, again.status) == (202, 200)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert json.loads(again.text)["data"]["id"] == first.headers["X-Push-Id"]


async def test_nobody_to_deliver_to_is_no_proof(tmp_path: Path) -> None:
    """Without a target an answer that waits is 202 at once: on disk, and with nobody else."""
    async with running(tmp_path) as site:
        answer = await push(site, query="?wait=delivered&timeout=300s")
        assert (answer.status, json.loads(answer.text)["data"]["targets"]) == (202, {})


async def test_nothing_to_deliver_is_delivered(tmp_path: Path) -> None:
    """A DELETE that ended nothing has no id and nothing to wait for."""
    async with running(tmp_path, AWAY) as site:
        answer = await push(site, query="?wait=delivered&timeout=300s", method="DELETE")
        assert (answer.status, json.loads(answer.text)["data"]) == (200, {"id": "", "targets": {}})


async def test_waiting_holds_nobody_up(tmp_path: Path) -> None:
    """With hundreds of waiting answers pushes go on, are counted at once, and all waiters are served in the end."""
    async with target(free=False) as slow, running(tmp_path, slow.url) as site:
        waiting = [asyncio.create_task(push(site, f"w{number}", WAIT)) for number in range(90)]
        await eventually(lambda: site.count("put", "accepted"), lambda count: count == len(waiting))
        assert not any(task.done() for task in waiting)
        assert [(await push(site)).status for _ in range(20)] == [200] * 20
        slow.free.set()
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
        assert not any(site.agent.committer._settled._waiting.values())


@pytest.mark.parametrize("headers", [{}, GENERAL], ids=["short way", "general way"])
async def test_an_agent_that_ends_lets_nobody_wait(tmp_path: Path, headers: dict[str, str]) -> None:
    """A waiting answer is given when the agent is to stop: 202, pending, since nothing else is known."""
    async with running(tmp_path, AWAY) as site:
        waiting = asyncio.create_task(push(site, query="?wait=delivered&timeout=300s", **headers))
        await eventually(lambda: site.count("put", "accepted"), lambda count: count == 1)
        site.agent.stopping.set()
        async with asyncio.timeout(DEADLINE_S):
            answer = await waiting
        assert (answer.status, json.loads(answer.text)["data"]["targets"]) == (202, {"t0": {"state": "pending"}})


async def test_a_receipt_that_cannot_be_read_refuses_no_push(tmp_path: Path) -> None:
    """When the journal cannot be looked back at, a push on disk stays accepted, and questions are 503."""
    async with target() as receiver, running(tmp_path, receiver.url) as site:
        site.agent._history.close()
        answer = await push(site, query=WAIT)
        assert answer.status == 202
        assert json.loads(answer.text)["data"]["targets"] == {"t0": {"state": "unknown"}}
        for path in ("", f"/{answer.headers['X-Push-Id']}"):
            asked = await site.ask("GET", f"/api/v1/pushes{path}")
            assert (asked.status, json.loads(asked.text)["errorType"]) == (503, "unavailable")
            assert int(asked.headers["Retry-After"]) > 0


async def test_what_is_past_retention_says_so(tmp_path: Path) -> None:
    """The receipt of a push whose rows were trimmed is 404 and names the setting; its key is known longer."""
    async with target() as receiver, running(tmp_path, receiver.url) as site:
        first = await push(site, query=WAIT, Idempotency_Key="k")
        push_id = first.headers["X-Push-Id"]
        await site.agent.committer.write_states()
        await asyncio.sleep(0.002)
        assert await site.agent.committer.trim(0) == 1
        answer = await site.ask("GET", f"/api/v1/pushes/{push_id}")
        words = f"push '{push_id}': the journal does not have it, or no longer (storage.retention)"
        assert is_refused(answer, 404, "not_found", words)
        again = await push(site, query=WAIT, Idempotency_Key="k")
        assert (again.status, again.text) == (200, first.text)
