"""Pushes reach receivers that run from their images, as users run them: exact samples, and an end after DELETE."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.blackbox.containers import Receiver, engine, provide_image
from tests.blackbox.load import metrics, request
from tests.blackbox.queries import poll
from tests.blackbox.servers import agent

TENANT = "batch"
READY_WITHIN_S = 60.0
MIMIR_CONFIG = """
blocks_storage:
  backend: filesystem
  bucket_store: {sync_dir: /tmp/mimir/sync}
  filesystem: {dir: /tmp/mimir/blocks}
  tsdb: {dir: /tmp/mimir/tsdb}
compactor: {data_dir: /tmp/mimir/compactor}
distributor: {ring: {instance_addr: 127.0.0.1}}
ingester: {ring: {instance_addr: 127.0.0.1, replication_factor: 1}}
ruler_storage: {backend: filesystem, filesystem: {dir: /tmp/mimir/rules}}
server: {http_listen_port: 9009, log_level: warn}
store_gateway: {sharding_ring: {replication_factor: 1}}
"""
RECEIVERS = (
    Receiver(
        name="prometheus",
        image="prom/prometheus:v3.5.0",
        command=("--config.file=/etc/prometheus/prometheus.yml", "--web.enable-remote-write-receiver"),
        port=9090,
        write_path="/api/v1/write",
        ready_path="/-/ready",
        query_path="/api/v1/query",
        binary="prometheus",
    ),
    Receiver(
        name="victoriametrics",
        image="victoriametrics/victoria-metrics:v1.122.0",
        command=("-search.latencyOffset=0s", "-search.disableCache"),
        port=8428,
        write_path="/api/v1/write",
        ready_path="/health",
        query_path="/api/v1/query",
        binary="victoria-metrics",
    ),
    Receiver(
        name="mimir",
        image="grafana/mimir:2.17.0",
        command=("-config.file=/config.yml",),
        port=9009,
        write_path="/api/v1/push",
        ready_path="/ready",
        query_path="/prometheus/api/v1/query",
        config=MIMIR_CONFIG,
    ),
    # Receive answers no queries of its own; that it takes the samples is all that is asked of it.
    Receiver(
        name="thanos",
        image="thanosio/thanos:v0.39.2",
        command=(
            "receive",
            "--tsdb.path=/tmp/thanos",
            "--http-address=0.0.0.0:10902",
            "--remote-write.address=0.0.0.0:19291",
            '--label=replica="1"',
        ),
        port=19291,
        write_path="/api/v1/receive",
        ready_path="/",
        query_path="",
    ),
)
VALUES = {"rows": 42.5, "done_total": 3.0, "old": 7.0}
BODY = b'# TYPE rows gauge\nrows 42.5\n# TYPE done counter\ndone_total{kind="full"} 3\nold 7 %d\n'


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker.DockerClient]:
    """Give a container engine."""
    # Its cleaner is one more image to pull, and every container here ends with its test.
    testcontainers_config.ryuk_disabled = True
    with engine(tmp_path_factory.mktemp("engine")) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Running:
    """A receiver that answers."""

    receiver: Receiver
    url: str

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body, 0 while nobody answers."""
        asked = urllib.request.Request(f"{self.url}{path}", headers={"X-Scope-OrgID": TENANT})  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""

    def query(self, expression: str) -> dict[str, list[list[object]]]:
        """Samples of each series by its name."""
        status, body = self.get(f"{self.receiver.query_path}?{urllib.parse.urlencode({'query': expression})}")
        assert status == 200, body
        found = json.loads(body)["data"]["result"]
        return {series["metric"]["__name__"]: series.get("values") or [series["value"]] for series in found}


@pytest.fixture(params=RECEIVERS, ids=[receiver.name for receiver in RECEIVERS])
def running(request: pytest.FixtureRequest, client: docker.DockerClient, tmp_path: Path) -> Iterator[Running]:
    """Run a receiver from its image."""
    receiver: Receiver = request.param
    container = DockerContainer(provide_image(client, receiver)).with_exposed_ports(receiver.port)
    container.with_command(list(receiver.command))
    if receiver.config:
        config = tmp_path / "config.yml"
        config.write_text(receiver.config)
        container.with_volume_mapping(str(config), "/config.yml")
    # testcontainers leaves its client open.
    with closing(container.get_docker_client().client), container:
        url = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(receiver.port)}"
        running = Running(receiver, url)
        deadline_s = time.monotonic() + READY_WITHIN_S
        # Any answer will do where a receiver has no page for it on this port.
        wanted = {200} if receiver.ready_path != "/" else range(200, 500)
        while running.get(receiver.ready_path)[0] not in wanted:
            assert time.monotonic() < deadline_s, container.get_logs()
            time.sleep(0.2)
        yield running


def test_an_image_gets_every_sample(running: Running, tmp_path: Path) -> None:
    """Values and milliseconds arrive as pushed, the account closes, and after a DELETE an instant query is empty."""
    url = f"{running.url}{running.receiver.write_path}"
    config = f"remote_write: [{{name: target, url: '{url}', headers: {{X-Scope-OrgID: {TENANT}}}}}]\n"
    old_ms = int(time.time() * 1000) - 60_123
    with agent(tmp_path / "agent", config=config) as server:
        path = f"/metrics/job/container/instance/{running.receiver.name}"
        assert request(server.port, "PUT", path, BODY % old_ms).status == 200
        assert request(server.port, "DELETE", f"{path}?wait=delivered").status == 200
        now = metrics(server.port)
        delivered = now['pushbridge_samples_delivered_total{target="target"}']
        assert delivered == now["pushbridge_samples_accepted_total"] >= 8
    if running.receiver.query_path:
        raw = poll(lambda: values_of(running.query('{job="container"}[10m]')), VALUES)
        assert raw == VALUES
        ((at_s, _),) = running.query('old{job="container"}[10m]')["old"]
        assert round(float(str(at_s)) * 1000) == old_ms
        # A sample with a time of its own has no end but the lookback.
        assert set(running.query('{job="container"}')) <= {"old"}


def values_of(found: dict[str, list[list[object]]]) -> dict[str, float]:
    """First value of each pushed series."""
    return {name: float(str(samples[0][1])) for name, samples in found.items() if name in VALUES}
