"""Tenants from end to end: a request's header says whose samples it holds, and nothing gets lost or reordered."""

import re
from pathlib import Path

from tests.blackbox.checker import Stored, judge
from tests.blackbox.load import Client, Load, Push, metrics, request, series, settled_account, wait_for
from tests.blackbox.scripted_receiver import Request, ScriptedReceiver, Step
from tests.blackbox.servers import agent

TEAMS = ("red", "blue", "")
RULES = 'rules: [{match: {team: ".+"}, tenant: "t-{team}", expect_every: 1h}]\n'
HEADERS = "headers: {x-scope-orgid: shared}"


def config(receiver: ScriptedReceiver, *more: str) -> str:
    """A configuration with the rule and this receiver."""
    settings = ", ".join((f"url: '{receiver.url}'", "name: target", HEADERS, *more))
    return f"{RULES}remote_write: [{{{settings}}}]\n"


def tenants_of(one: Request, header: str = "x-scope-orgid") -> list[str]:
    """Every value of the tenant's header, of which there has to be one."""
    return re.findall(rf"(?im)^{header}: *(.*?)\r?$", one.head)


def team(sample: Stored) -> str:
    """The tenant that a sample should go to."""
    labels = dict(sample.series)
    return f"t-{labels['team']}" if labels.get("team") else "shared"


def push(writer: int, number: int) -> Push:
    """Push a number to a group of a team, or of none."""
    labels = {"job": f"job{writer}"}
    if TEAMS[writer % 3]:
        labels["team"] = TEAMS[writer % 3]
    path = "".join(f"/{name}/{value}" for name, value in labels.items())
    effects = ((series("numbered", **labels), float(number)),)
    return Push("PUT", f"/metrics{path}", f"numbered {number}\n".encode(), effects)


def test_no_request_mixes_tenants(tmp_path: Path) -> None:
    """Under load, with failures in between, each request has samples of its tenant only; all arrive in order."""
    script = (Step(), Step(500), Step(503), Step(), Step(resets_at=0.5), Step(429))
    with ScriptedReceiver(*script) as receiver, agent(tmp_path, config=config(receiver)) as server:
        with Load(server.port, writers=6, plan=push) as load:
            wait_for(load.acknowledged, lambda count: count > 600)
        account = settled_account(server.port)
        requests, stored = receiver.requests(), receiver.stored()
    found = {header for one in requests for header in tenants_of(one)}
    assert found == {"t-red", "t-blue", "shared"}
    for one in requests:
        assert len(tenants_of(one)) == 1
        assert {team(sample) for sample in one.samples} <= set(tenants_of(one))
    assert judge(load.log(), stored) == []
    assert account.balanced
    assert (account.pending, account.dropped) == (0, {})
    assert account.delivered == account.accepted


def test_repeats_have_the_tenant_of_their_group(tmp_path: Path) -> None:
    """Repeats go where the pushes went, what the agent says of a group too; what it says of itself goes to nobody's."""
    options = "tenant_header: THANOS-TENANT"
    with (
        ScriptedReceiver() as receiver,
        agent(tmp_path, "--push.hold-interval=1s", config=config(receiver, options)) as server,
        Client(server.port) as client,
    ):
        for writer in range(6):
            client.must_accept(push(writer, 1))

        def names(wanted: str, requests: list[Request]) -> set[str]:
            with_header = [one for one in requests if tenants_of(one, "thanos-tenant") == ([wanted] if wanted else [])]
            repeats = [sample for one in with_header for sample in one.samples if sample.timestamp_ms % 1000 == 0]
            return {dict(sample.series)["__name__"] for sample in repeats}

        of_group = {"numbered", "push_time_seconds", "push_failure_time_seconds"}
        own = {"pushbridge_up", "pushbridge_start_time_seconds"}
        of_team = of_group | {"pushbridge_job_overdue"}
        requests = receiver.wait_for(
            lambda all_: (
                names("", all_) >= of_group | own and all(names(team, all_) >= of_team for team in ("t-red", "t-blue"))
            )
        )
    assert names("t-red", requests) == names("t-blue", requests) == of_team
    assert "pushbridge_job_overdue" not in names("", requests)
    for one in requests:
        assert tenants_of(one) == ["shared"], "another header stays as it is configured"
        assert {team(sample) for sample in one.samples} <= {*tenants_of(one, "thanos-tenant"), "shared"}
        assert len({team(sample) for sample in one.samples}) == 1


def test_labels_that_make_no_tenant_are_refused(tmp_path: Path) -> None:
    """The push is told what is wrong and where it comes from; nothing of its group is sent or shown."""
    with ScriptedReceiver() as receiver, agent(tmp_path, config=config(receiver)) as server:
        answer = request(server.port, "PUT", "/metrics/job/j/team/a%20b", b"numbered 1\n")
        assert answer.status == 400
        assert "tenant 't-a b' has ' '" in answer.text
        assert "tenant: 't-{team}' in rules" in answer.text
        assert metrics(server.port)['pushbridge_pushes_total{method="put",outcome="refused",reason="tenant"}'] == 1
        with Client(server.port) as client:
            client.must_accept(push(0, 1))
        receiver.wait_for(lambda requests: any(one.samples for one in requests))
        assert settled_account(server.port).accepted == 3
        assert "a b" not in str(receiver.requests())
