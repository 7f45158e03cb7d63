"""Targets that are to get remote_write 2.0: Debian's receivers do not know it, the embedded one does.

Newer real ones: `test_prometheus_3`, `test_receivers`, `test_native`, `test_dead_letters`, `test_fleets`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.blackbox import binaries
from tests.blackbox.compliance import MESSAGES
from tests.blackbox.load import Client, metrics, one_value, series, settled_account
from tests.blackbox.ports import free_port
from tests.blackbox.queries import PrometheusStore, Store, VictoriaStore, fetch, poll
from tests.blackbox.servers import Server, _start, agent, needs, prometheus, victoria_metrics


def config(receiver: Server) -> str:
    """One target that is to get 2.0."""
    return f"remote_write: [{{url: '{receiver.url}/api/v1/write', name: t, protobuf_message: {MESSAGES['2.0']}}}]\n"


only_old = pytest.mark.skipif(
    binaries.version("prometheus") >= (2, 54), reason="this Prometheus takes remote_write 2.0; see test_prometheus_3"
)


@pytest.mark.real
@pytest.mark.parametrize(
    ("start", "store"),
    [
        pytest.param(prometheus, PrometheusStore, marks=[needs("prometheus"), only_old]),
        pytest.param(victoria_metrics, VictoriaStore, marks=needs("victoria-metrics")),
    ],
)
def test_receivers_that_do_not_know_it(
    start: Callable[[Path], Server], store: Callable[[Server], Store], tmp_path: Path
) -> None:
    """They answer 204 to 2.0 and store nothing; every push arrives all the same, the first one too, and once."""
    with start(tmp_path / "receiver") as receiver, agent(tmp_path, config=config(receiver)) as server:
        with Client(server.port) as client:
            for number in range(1, 6):
                client.must_accept(one_value("old", number))
                assert settled_account(server.port).dropped == {}
        wanted = ["1.0", "2.0", "3.0", "4.0", "5.0"]

        def arrived() -> list[str]:
            return [value for _, value in store(receiver).raw("old").get(series("numbered", job="old"), ())]

        assert poll(arrived, wanted) == wanted
        assert metrics(server.port)['pushbridge_target_protocol{target="t",version="1.0"}'] == 1


def test_the_embedded_receiver_knows_it(tmp_path: Path) -> None:
    """Values arrive by 2.0, the target is never spoken to otherwise, and says how much it wrote."""
    port = free_port()
    command = (sys.executable, "-m", "bridge", "receiver", f"--listen-address=127.0.0.1:{port}")
    with (
        _start("receiver", command, port, "/", tmp_path) as receiver,
        agent(tmp_path, config=config(receiver)) as server,
        Client(server.port) as client,
    ):
        for number in range(1, 4):
            client.must_accept(one_value("new", number))
        assert settled_account(server.port).dropped == {}
        found = json.loads(fetch(receiver, "/api/v1/samples"))["samples"]
        values = [one["value"] for one in found if one["labels"] == {"__name__": "numbered", "job": "new"}]
        assert [value for at, value in enumerate(values) if value not in values[:at]] == ["1", "2", "3"]
        seen = metrics(server.port)
        assert seen['pushbridge_target_protocol{target="t",version="2.0"}'] == 1
        assert seen['pushbridge_remote_write_written_total{target="t",type="samples"}'] >= len(found) > 0
