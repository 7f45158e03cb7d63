"""write_relabel_configs from end to end: what a real Prometheus has afterwards, and that the account holds."""

import json
from pathlib import Path

import pytest

from tests.blackbox.load import account, request, settled_account, wait_for
from tests.blackbox.queries import fetch
from tests.blackbox.servers import Server, agent, needs, prometheus

BLOCK = """
remote_write:
  - url: {url}/api/v1/write
    name: target
    write_relabel_configs:
      - source_labels: [__name__]
        regex: "go_.*|push_.*"
        action: drop
      - regex: pod
        action: labeldrop
      - source_labels: [instance]
        regex: "([^:]+)(:[0-9]+)?"
        target_label: __tmp_host
      - source_labels: [__tmp_host]
        target_label: host
      - target_label: cluster
        replacement: eu1
"""


def series(server: Server) -> list[dict[str, str]]:
    """The labels of every series that a Prometheus has."""
    found: list[dict[str, str]] = json.loads(fetch(server, "/api/v1/series?match[]={__name__=~%22.%2B%22}"))["data"]
    return found


@needs("prometheus")
@pytest.mark.real
def test_a_pasted_block_does_its_work(tmp_path: Path) -> None:
    """Pushes, repeats and the agent's own series arrive relabeled, what is dropped is counted, also after a restart."""
    with prometheus(tmp_path / "prometheus") as receiver:
        block = BLOCK.format(url=receiver.url)
        with agent(tmp_path / "agent", "--push.hold-interval=1s", config=block) as server:
            body = b'rows{pod="p-1"} 42\ngo_threads 7\nsame{pod="p-1"} 1\nsame{pod="p-2"} 2\n'
            answer = request(server.port, "PUT", "/metrics/job/j/instance/db1:9100?wait=delivered", body)
            assert answer.status == 200, "what the operator's own rules drop is no refusal"
            assert '"state": "delivered"' in answer.text
            nothing_left = request(server.port, "PUT", "/metrics/job/k?wait=delivered", b"go_threads 7\n")
            assert nothing_left.status == 200
            shown = wait_for(lambda: series(receiver), lambda found: "pushbridge_up" in str(found))
            before = settled_account(server.port)
        assert before.dropped == {"relabel": 1 + 2 + 1 + 2, "relabel_duplicate": 1}
        assert (before.accepted, before.delivered, before.balanced) == (9, 2, True)
        with agent(tmp_path / "agent", "--push.hold-interval=1s", config=block) as server:
            assert account(server.port) == before
    own = {"cluster": "eu1", "host": "db1", "instance": "db1:9100", "job": "j"}
    found = [one for one in shown if not one["__name__"].startswith("pushbridge_")]
    assert sorted(found, key=str) == sorted(({"__name__": name, **own} for name in ("rows", "same")), key=str)
    (up,) = [one for one in shown if one["__name__"] == "pushbridge_up"]
    assert (up["cluster"], up["job"]) == ("eu1", "pushbridge")
    assert "__tmp_host" not in up
