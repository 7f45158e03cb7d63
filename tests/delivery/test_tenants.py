"""A sender whose rows belong to several tenants, or of which rules drop some."""

from dataclasses import replace

from aiohttp import web

from bridge.config.relabel import RelabelConfig
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules
from bridge.journal.rows import Entry
from tests.delivery.peers import Answer, Journal, Receiver, entry, running, status

OF_TENANTS = TargetRules(None, bytes.decode)


def row(seq: int, tenant: str) -> Entry:
    """A row with one sample named after its tenant."""
    return replace(entry(seq, tenant or "none"), group=tenant.encode())


def tenants(receiver: Receiver) -> list[str | None]:
    """The header of each request."""
    return [headers.get("X-Scope-OrgID") for headers in receiver.headers]


async def test_each_tenant_gets_its_own_request() -> None:
    """What is read at once makes a request for each tenant, with the header."""
    journal, receiver = Journal(*(row(seq, tenant) for seq, tenant in enumerate(("x", "y", "", "x"), 1))), Receiver()
    async with receiver.serving() as url, running(url, journal, rules=OF_TENANTS):
        await journal.confirmed_up_to(4)
    assert list(zip(tenants(receiver), receiver.points(), strict=False))[:1] == [("x", ("x", 1.0, 1))]
    assert tenants(receiver) == ["x", "y", None]
    assert [name for name, _, _ in receiver.points()] == ["x", "x", "y", "none"]
    assert journal.totals() == (4, {})


async def test_a_retry_is_for_the_same_tenant() -> None:
    """A request that failed is sent again with its own header; the next tenant does not wait for it."""
    journal, receiver = Journal(row(1, "x"), row(2, "y")), Receiver([status(503), status(204), status(503)])
    async with receiver.serving() as url, running(url, journal, rules=OF_TENANTS):
        await journal.confirmed_up_to(2)
    assert tenants(receiver) == ["x", "y", "x", "x"]


async def test_what_one_tenant_may_not_write_harms_no_other() -> None:
    """When the receiver refuses one tenant, the pushes of the others are told that they were delivered."""

    async def by_tenant(request: web.Request) -> web.StreamResponse:
        refused = request.headers["X-Scope-OrgID"] == "x"
        return web.Response(status=400, text="over your limit") if refused else web.Response(status=204)

    answers: list[Answer] = [by_tenant] * 2
    journal, receiver = Journal(*(row(seq, tenant) for seq, tenant in enumerate("xyyx", 1))), Receiver(answers)
    async with receiver.serving() as url, running(url, journal, rules=OF_TENANTS):
        await journal.confirmed_up_to(4)
    assert journal.totals() == (2, {"http_400": 2})
    told = {seq: one for one in journal.settled for seq in range(one.first_seq, one.last_seq + 1)}
    assert [bool(told[seq].dropped) for seq in (1, 2, 3, 4)] == [True, False, False, True]
    assert told[1].words == told[4].words == "over your limit"


async def test_what_rules_drop_is_settled() -> None:
    """Rows of which rules leave nothing are confirmed without a request, and counted as dropped by the rules."""
    drop = RelabelConfig(source_labels=("__name__",), regex="a", action="drop")
    rules = TargetRules(Relabeler([drop]).relabel)
    journal, receiver = Journal(entry(1, "a", "a")), Receiver()
    async with receiver.serving() as url, running(url, journal, rules=rules):
        await journal.confirmed_up_to(1)
        await journal.append(entry(2, "a", "b"))
        await journal.confirmed_up_to(2)
    assert journal.totals() == (1, {"relabel": 3})
    assert receiver.points() == [("b", 2.0, 2)]
