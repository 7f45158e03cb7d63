"""Tenants from end to end: a request's header says whose samples it holds, and nothing gets lost or reordered."""

import json
import re
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.blackbox.checker import Stored, judge, without_repeats
from tests.blackbox.load import Client, Load, Push, metrics, numbers_of, request, series, settled_account, wait_for
from tests.blackbox.ports import free_port
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


def small_queues(receiver: ScriptedReceiver) -> str:
    """A configuration with which little is in hand; no job is expected."""
    settings = config(receiver, "queue_config: {capacity: 100, max_samples_per_send: 50}")
    return settings.replace(", expect_every: 1h", "")


def throttling(receiver: ScriptedReceiver, busy: threading.Event) -> None:
    """Answer 429 to one tenant while it is busy."""

    def judge(samples: Sequence[Stored]) -> Step | None:
        of_red = any(team(sample) == "t-red" for sample in samples)
        return Step(429, delay_s=0.02) if of_red and busy.is_set() else None

    receiver.judge = judge


def of_red(samples: Iterable[Stored]) -> list[Stored]:
    """Those of the tenant in trouble."""
    return [sample for sample in samples if team(sample) == "t-red"]


def test_a_throttled_tenant_holds_up_no_other(tmp_path: Path) -> None:
    """While one tenant is answered 429 the others get their pushes and repeats; later it gets its own, in order."""
    busy = threading.Event()
    busy.set()
    with ScriptedReceiver() as receiver:
        throttling(receiver, busy)
        settings = small_queues(receiver)
        with agent(tmp_path, "--push.hold-interval=1s", config=settings) as server:
            with Load(server.port, writers=6, plan=push) as load:
                wait_for(load.acknowledged, lambda count: count > 1500)
                newest = max(number for number in numbers_of(load.log()))
                # What was pushed when the tenant had far more waiting than it may have in hand.
                wait_for(receiver.stored, lambda stored: sum((one.value or 0) > newest for one in stored) > 3)
                assert of_red(receiver.stored(repeats=True)) == []
            repeats = wait_for(
                lambda: [one for one in receiver.stored(repeats=True) if one.timestamp_ms % 1000 == 0],
                lambda found: {team(one) for one in found} >= {"t-blue", "shared"},
            )
            assert {team(one) for one in repeats} == {"t-blue", "shared"}
            busy.clear()
            account = settled_account(server.port)
            stored = without_repeats(receiver.stored(repeats=True), 1000)
    assert judge(load.log(), stored) == []
    assert len(of_red(stored)) > 300
    assert (account.left_over, account.pending, account.dropped, account.dead_lettered) == (0, 0, {}, {})


def test_a_crash_while_a_tenant_is_throttled(tmp_path: Path) -> None:
    """SIGKILL loses nothing of anybody; what the others had before and refuse to have again is said to be stored."""
    busy, port = threading.Event(), free_port()
    busy.set()
    with ScriptedReceiver() as receiver:
        throttling(receiver, busy)
        settings = small_queues(receiver)
        with agent(tmp_path, config=settings, port=port) as first, Load(port, writers=6, plan=push) as load:
            wait_for(load.acknowledged, lambda count: count > 900)
            first.kill()
            with agent(tmp_path, config=settings, port=port) as server:
                wait_for(load.acknowledged, lambda count: count > 1800)
                load.stop()
                assert of_red(receiver.stored(repeats=True)) == []
                busy.clear()
                account = settled_account(port)
                letters = json.loads(request(port, "GET", "/api/v1/dead-letters?limit=1000").text)["data"]
                stored = receiver.stored()
            assert server.process.returncode == 0
    assert judge(load.log(), stored, max_rewinds=1) == []
    assert account.balanced
    assert (account.pending, account.dropped) == (0, {})
    assert all(letter["maybe_stored"] for letter in letters)
    assert all(letter["tenant"] != "t-red" for letter in letters)


@pytest.mark.parametrize("way", ["reload", "stop", "kill"])
def test_nobody_gets_again_what_it_had_ahead_of_another(way: str, tmp_path: Path) -> None:
    """A reload, an end, or a crash some seconds later while one tenant is in trouble costs the others nothing."""
    busy, port = threading.Event(), free_port()
    busy.set()
    with ScriptedReceiver() as receiver, ExitStack() as ends:
        throttling(receiver, busy)
        settings = small_queues(receiver)
        first = ends.enter_context(agent(tmp_path, config=settings, port=port))
        with Load(port, writers=6, plan=push) as load:
            wait_for(load.acknowledged, lambda count: count > 900)
        of_others = sum(team(Stored(one.series, 0, 0.0)) != "t-red" for one in load.log())
        wait_for(lambda: of_load(receiver), lambda stored: len(stored) == of_others)
        if way == "reload":
            (tmp_path / "pushbridge.yml").write_text(settings.replace("capacity: 100", "capacity: 200"))
            first.process.send_signal(signal.SIGHUP)
            assert "event=reloaded" in wait_for(first.log_tail, lambda text: "event=reloaded" in text)
        else:
            if way == "kill":
                delivered_s = time.time()
                wait_for(lambda: noted_s(tmp_path / "storage"), lambda newest_s: newest_s > delivered_s)
                first.kill()
            else:
                assert first.stop() == 0
            ends.enter_context(agent(tmp_path, config=settings, port=port))
        busy.clear()
        account = settled_account(port)
        stored = receiver.stored()
    assert len(load.log()) == len(of_load(receiver)), "nothing came twice"
    assert judge(load.log(), stored) == []
    assert (account.left_over, account.pending, account.dropped, account.dead_lettered) == (0, 0, {}, {})


def noted_s(storage: Path) -> float:
    """When an agent last noted what its target has beyond the cursor."""
    return max((one.stat().st_mtime for one in storage.glob("ahead-*.json")), default=0.0)


def of_load(receiver: ScriptedReceiver) -> list[Stored]:
    """What is stored of that which was pushed."""
    return [one for one in receiver.stored() if dict(one.series)["__name__"] == "numbered"]


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
