"""Starts the receivers of many machines, Mimir and Thanos Receive, each whole in one place with its blocks on disk.

Debian has neither: environment variables name the binaries (`binaries`). What is written to them, and what is expected
of them, does not belong here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.blackbox.ports import free_port
from tests.blackbox.queries import PrometheusStore
from tests.blackbox.servers import _start

TENANT: Final = "batch"


@dataclass(frozen=True, slots=True)
class Fleet:
    """A receiver that runs."""

    write_url: str
    tenant_header: str
    store: PrometheusStore

    def target(self, *more: str) -> str:
        """Give the configuration of an agent that delivers to it; `more` are further keys."""
        keys = (f"name: target, url: '{self.write_url}'", f"headers: {{{self.tenant_header}: {TENANT}}}", *more)
        return f"remote_write: [{{{', '.join(keys)}}}]\n"


@contextmanager
def mimir(tmp: Path, *flags: str) -> Iterator[Fleet]:
    """Start all of Mimir in one process."""
    port, rpc = free_port(), free_port()
    rings = ("ingester.ring", "distributor.ring", "compactor.ring", "store-gateway.sharding-ring", "ruler.ring")
    directories = {
        "common.storage.filesystem.dir": "common",
        "blocks-storage.filesystem.dir": "blocks",
        "blocks-storage.tsdb.dir": "tsdb",
        "blocks-storage.bucket-store.sync-dir": "sync",
        "compactor.data-dir": "compactor",
        "ruler-storage.filesystem.dir": "rules",
        "ruler.rule-path": "rules-cache",
        "alertmanager-storage.filesystem.dir": "alerts",
        "alertmanager.storage.path": "alertmanager",
        "activity-tracker.filepath": "activity",
    }
    arguments = (
        "-target=all",
        "-server.http-listen-address=127.0.0.1",
        f"-server.http-listen-port={port}",
        "-server.grpc-listen-address=127.0.0.1",
        f"-server.grpc-listen-port={rpc}",
        "-memberlist.bind-addr=127.0.0.1",
        f"-memberlist.bind-port={free_port()}",
        *(f"-{ring}.instance-addr=127.0.0.1" for ring in rings),
        *(f"-{ring}.store=inmemory" for ring in rings),
        "-ingester.ring.replication-factor=1",
        "-store-gateway.sharding-ring.replication-factor=1",
        "-ingester.ring.min-ready-duration=0s",
        "-query-frontend.instance-addr=127.0.0.1",
        "-common.storage.backend=filesystem",
        *(f"-{flag}={tmp / directory}" for flag, directory in directories.items()),
        "-usage-stats.enabled=false",
        "-log.level=warn",
        # A query is answered from memory, and up to now.
        "-query-frontend.cache-results=false",
        *flags,
    )
    with _start("mimir", ("mimir", *arguments), port, "/ready", tmp) as server:
        store = PrometheusStore(server, "/prometheus", {"X-Scope-OrgID": TENANT})
        yield Fleet(f"{server.url}/api/v1/push", "X-Scope-OrgID", store)


@contextmanager
def thanos(tmp: Path, *flags: str) -> Iterator[Fleet]:
    """Start Receive, and Query, which answers for it."""
    port, rpc, write = free_port(), free_port(), free_port()
    receive = (
        "receive",
        f"--tsdb.path={tmp / 'tsdb'}",
        f"--http-address=127.0.0.1:{port}",
        f"--grpc-address=127.0.0.1:{rpc}",
        f"--remote-write.address=127.0.0.1:{write}",
        f"--receive.capnproto-address=127.0.0.1:{free_port()}",
        '--label=replica="1"',
        "--log.level=warn",
        *flags,
    )
    query_port = free_port()
    query = (
        "query",
        f"--http-address=127.0.0.1:{query_port}",
        f"--grpc-address=127.0.0.1:{free_port()}",
        f"--endpoint-strict=127.0.0.1:{rpc}",
        "--log.level=warn",
    )
    with (
        _start("thanos-receive", ("thanos", *receive), port, "/-/ready", tmp),
        _start("thanos-query", ("thanos", *query), query_port, "/-/ready", tmp) as server,
    ):
        store = PrometheusStore(server, added=frozenset({"replica", "tenant_id"}))
        yield Fleet(f"http://127.0.0.1:{write}/api/v1/receive", "THANOS-TENANT", store)
