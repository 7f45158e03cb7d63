"""A receiver that lost its data gets it again from the journal; a history is read while the agent runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.blackbox.load import Load, request, settled_account, wait_for
from tests.blackbox.ports import free_port
from tests.blackbox.queries import PrometheusStore, Store, VictoriaStore, account, now_ms, poll
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server, agent, needs, prometheus, victoria_metrics

VICTORIA_FLAGS = ("-search.latencyOffset=0s", "-search.disableCache")
OUT_OF_ORDER = "scrape_configs: []\nstorage: {tsdb: {out_of_order_time_window: 2h}}\n"
CONFIG = """
global: {{external_labels: {{cluster: eu1}}}}
remote_write: [{{name: store, url: "http://127.0.0.1:{port}/api/v1/write", queue_config: {{max_samples_per_send: 20}}}}]
"""


def journal(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a journal command on a running agent's journal, with its configuration."""
    command = [sys.executable, "-m", "bridge", "journal", *arguments]
    place = (f"--config.file={server.directory / 'pushbridge.yml'}", f"--storage.path={server.directory / 'storage'}")
    return subprocess.run([*command, *place], capture_output=True, text=True, check=False, timeout=60)


def push_history(server: Server, job: str) -> None:
    """Push values, some with times of their own, end series, and wait until the target has all of it."""
    old_ms = now_ms() - 600_000
    for number in range(10):
        body = f"a {number}\n" + ("b 1\n" if number % 2 else "") + f'late{{n="{number}"}} 5 {old_ms + number}\n'
        assert request(server.port, "PUT", f"/metrics/job/{job}", body.encode()).status == 200
    assert request(server.port, "DELETE", f"/metrics/job/{job}").status == 202
    assert settled_account(server.port).pending == 0


def replayed(server: Server, store: Store, before: object, *arguments: str) -> None:
    """Replay, and see everything there again with its times, and the account as it was."""
    accounts = account(server)
    done = journal(server, "replay", "--target=store", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert poll(lambda: (store.raw("j"), store.markers("j")), before) == before
    assert account(server) == accounts


@pytest.mark.real
@needs("victoria-metrics")
def test_victoria_metrics_gets_its_data_back(tmp_path: Path) -> None:
    """Its data directory is deleted; a replay beside the running agent brings every sample and marker back."""
    port = free_port()
    data = tmp_path / "victoria"
    with agent(tmp_path / "agent", config=CONFIG.format(port=port)) as server:
        with victoria_metrics(data, *VICTORIA_FLAGS, port=port) as victoria:
            store = VictoriaStore(victoria)
            push_history(server, "j")
            before = store.raw("j"), store.markers("j")
            assert len(before[0]) == 14
            assert all(times for times in before[1].values())
        shutil.rmtree(data)
        with victoria_metrics(data, *VICTORIA_FLAGS, port=port) as victoria:
            store = VictoriaStore(victoria)
            assert store.raw("j") == {}
            replayed(server, store, before, "--since=1h")


@pytest.mark.real
@needs("prometheus")
def test_prometheus_with_an_out_of_order_window_gets_its_data_back(tmp_path: Path) -> None:
    """It takes what it lost although it has newer samples by then, and takes it once."""
    port = free_port()
    data = tmp_path / "prometheus"
    with agent(tmp_path / "agent", config=CONFIG.format(port=port)) as server:
        with prometheus(data, port=port, config=OUT_OF_ORDER) as store_server:
            push_history(server, "j")
            store = PrometheusStore(store_server)
            before = store.raw("j"), store.markers("j")
            assert len(before[0]) == 14
        shutil.rmtree(data)
        with prometheus(data, port=port, config=OUT_OF_ORDER) as store_server:
            store = PrometheusStore(store_server)
            assert request(server.port, "PUT", "/metrics/job/newer", b"a 1\n").status == 200
            assert settled_account(server.port).pending == 0
            replayed(server, store, before, '--match={job="j"}')
            replayed(server, store, before, '--match={job="j"}')


def test_history_is_read_while_the_agent_writes(tmp_path: Path) -> None:
    """Under load every command gives a whole answer, and the agent answers every push."""
    with (
        ScriptedReceiver() as receiver,
        agent(tmp_path, config=CONFIG.format(port=receiver.port)) as server,
        Load(server.port, writers=1) as load,
    ):
        wait_for(load.acknowledged, lambda count: count > 50)
        for _ in range(2):
            told = json.loads(journal(server, "stats", "--format=json").stdout)
            target = told["targets"]["store"]
            assert told["accepted_total"] == target["delivered"] + target["pending"]
            exported = journal(server, "export")
            assert (exported.returncode, exported.stderr) == (0, "")
            assert len(exported.stdout.splitlines()) >= told["samples"]
            listed = journal(server, "list", "--limit=5", "--format=json").stdout.splitlines()
            assert len([json.loads(line) for line in listed]) == 5
        newest = json.loads(listed[0])
        load.stop()
        assert all(entry.fate == "acknowledged" for entry in load.log())
        shown = json.loads(request(server.port, "GET", f"/api/v1/pushes/{newest['id']}").text)["data"]
        assert {**newest, "targets": shown["targets"]} == shown
