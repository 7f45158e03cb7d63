"""What alerts can rely on in /metrics: counters that are there before they count, and accounts that add up."""

import re
from pathlib import Path

import pytest

from tests.blackbox.load import metrics, request, wait_for
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step
from tests.blackbox.servers import Server, agent

LIFECYCLE = "--web.enable-lifecycle"
_OF_TARGET = re.compile(r'target="([^"]*)"')


def counters(server: Server, target: str = "") -> dict[str, float]:
    """Every counter, or those of a target."""
    return {
        key: value
        for key, value in metrics(server.port).items()
        if key.partition("{")[0].endswith("_total")
        and not key.startswith("pushbridge_process_")
        and (not target or f'target="{target}"' in key)
    }


def targets(server: Server) -> set[str]:
    """The targets that any metric tells of."""
    return {found for key in metrics(server.port) for found in _OF_TARGET.findall(key)}


def put(server: Server, path: str, body: str) -> int:
    return request(server.port, "PUT", f"/metrics/job/{path}", body.encode()).status


def balanced(server: Server, target: str) -> bool:
    """Whether the account of a target adds up, from what a user sees."""
    shown = {key: value for key, value in metrics(server.port).items() if f'target="{target}"' in key}

    def total(name: str) -> float:
        return sum(value for key, value in shown.items() if key.startswith(f"pushbridge_{name}{{"))

    left = sum(map(total, ("samples_delivered_total", "samples_dead_lettered_total", "samples_dropped_total")))
    return total("target_samples_accepted_total") == left + total("samples_pending")


def test_every_counter_is_there_before_it_counts(tmp_path: Path) -> None:
    """What grows by refusals, retries and dead letters was at 0 from the start, so that increase() sees the first."""
    with ScriptedReceiver() as receiver, agent(tmp_path, config=receiver.config) as server:
        before = counters(server)
        assert not [key for key, value in before.items() if value and "_scrapes_" not in key]
        receiver.add(Step(503), Step(429))
        assert put(server, "bad", "a b c\n") == 400
        assert put(server, "bad", 'a{refuse="409"} 1\nb 2\n') == 200
        assert request(server.port, "PUT", "/metrics/job/").status >= 400
        grown = wait_for(
            lambda: {key: value for key, value in counters(server).items() if value},
            lambda found: 'pushbridge_samples_dead_lettered_total{target="target",reason="http_409"}' in found,
        )
        assert 'pushbridge_samples_dead_lettered_total{target="target",reason="http_409"}' in grown
        assert 'pushbridge_remote_write_requests_total{target="target",code="503"}' in grown
        assert grown.keys() <= before.keys()
        assert balanced(server, "target")


def test_an_unusual_refusal_is_counted_where_an_alert_sees_it(tmp_path: Path) -> None:
    """A status that is not in the list counts under a reason that was there from the start; the letter has it."""
    with ScriptedReceiver(then=Step(418)) as receiver, agent(tmp_path, config=receiver.config) as server:
        key = 'pushbridge_samples_dead_lettered_total{target="target",reason="http_4xx"}'
        assert counters(server)[key] == 0
        assert put(server, "j", "a 1\n") == 200
        assert wait_for(lambda: counters(server)[key], lambda found: found == 3) == 3
        assert '"status": 418' in request(server.port, "GET", "/api/v1/dead-letters").text


@pytest.mark.parametrize("version", ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"])
def test_a_target_brings_its_counters_and_takes_them_along(tmp_path: Path, version: str) -> None:
    """A target that a reload adds has all counters at 0 and an account of its own; one that is removed has none."""
    with ScriptedReceiver() as old, ScriptedReceiver() as new, agent(tmp_path, LIFECYCLE, config=old.config) as server:
        assert put(server, "j", "a 1\n") == 200
        both = old.config.replace("}]", f"}}, {{url: '{new.url}', name: other, protobuf_message: {version}}}]")
        (tmp_path / "pushbridge.yml").write_text(both)
        assert request(server.port, "POST", "/-/reload").status == 200
        added = counters(server, "other")
        assert {key.replace('="other"', '="target"') for key in added} == counters(server, "target").keys()
        assert set(added.values()) == {0}
        assert put(server, "j", "a 2\nb 3\n") == 200
        wait_for(lambda: metrics(server.port), lambda found: not found['pushbridge_samples_pending{target="other"}'])
        assert metrics(server.port)['pushbridge_target_samples_accepted_total{target="other"}'] == 4
        assert balanced(server, "target")
        assert balanced(server, "other")
        (tmp_path / "pushbridge.yml").write_text(old.config)
        assert request(server.port, "POST", "/-/reload").status == 200
        assert targets(server) == {"target"}
