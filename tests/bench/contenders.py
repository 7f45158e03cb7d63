"""What is measured: how each contender is started, pushed to, and asked whether all has been delivered.

Each is a fresh process with a fresh directory for every row of the table. The starters of
`tests.blackbox.servers` do the work; the load and the table stand elsewhere.
"""

import os
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.blackbox import servers
from tests.blackbox.ports import free_port
from tests.blackbox.servers import Server

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SAMPLE = re.compile(r"^([a-z_]+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_POLL_S = 0.1

Totals = Mapping[str, float]
"""A server's own metrics, summed over the labels that `_totals` does not keep."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a contender says of the samples that it took."""

    accepted: float
    unsent: float
    """Not yet confirmed by the receiver."""
    lost: float


@dataclass(frozen=True, slots=True)
class Contender:
    """One server to push to."""

    name: str
    binary: str
    package: str
    """Debian's package, empty for what comes with this repository."""
    start: Callable[[Path, str], Server]
    """In this directory, delivering to this URL."""
    method: str
    path: str
    """Where to push, with a place for the group's number."""
    account: Callable[[Totals], Account] | None = None
    start_to_populate: Callable[[Path, str], Server] | None = None
    """When taking in many groups needs other flags; the server is then stopped and started again."""
    most_series: int = sys.maxsize
    """More than this many series in all groups together are not tried."""


def receiver(directory: Path, _url: str = "") -> Server:
    """Start the cheap remote_write receiver."""
    port = free_port()
    return servers._start("receiver", (sys.executable, "-m", "tests.bench.receiver", str(port)), port, "/", directory)


def _agent(directory: Path, url: str) -> Server:
    return servers.agent(directory, f"--remote-write.url={url}", "--storage.max-bytes=32GiB", "--log.level=warn")


def _vmagent(directory: Path, url: str) -> Server:
    port = free_port()
    flags = (
        f"-httpListenAddr=127.0.0.1:{port}",
        f"-remoteWrite.url={url}",
        f"-remoteWrite.tmpDataPath={directory / 'queue'}",
        "-http.connTimeout=1h",
        "-loggerLevel=WARN",
    )
    return servers._start("vmagent", ("vmagent", *flags), port, "/health", directory)


def _pushgateway(directory: Path, _url: str, *flags: str) -> Server:
    port = free_port()
    flags = f"--web.listen-address=127.0.0.1:{port}", f"--persistence.file={directory / 'groups'}", *flags
    return servers._start("pushgateway", ("prometheus-pushgateway", *flags), port, "/-/ready", directory)


def _pushgateway_unchecked(directory: Path, url: str) -> Server:
    return _pushgateway(directory, url, "--push.disable-consistency-check")


def _account_of_agent(totals: Totals) -> Account:
    return Account(
        totals["pushbridge_samples_accepted_total"],
        totals["pushbridge_samples_pending"],
        totals.get("pushbridge_samples_dropped_total", 0.0),
    )


def _account_of_vmagent(totals: Totals) -> Account:
    accepted = totals['vmagent_rows_inserted_total{type="prometheus"}']
    # These three appear with the first block.
    rows = totals.get("vmagent_remotewrite_block_size_rows_sum", 0.0)
    blocks = totals.get("vmagent_remotewrite_block_size_rows_count", 0.0)
    answered = totals.get('vmagent_remotewrite_requests_total{status_code="2XX"}', 0.0)
    return Account(accepted, accepted - rows + blocks - answered, totals["vmagent_remotewrite_packets_dropped_total"])


_PUSH_PATH = "/metrics/job/bench/instance/host-{:05}"
AGENT = Contender("agent", sys.executable, "", _agent, "PUT", _PUSH_PATH, _account_of_agent)
VMAGENT = Contender(
    "vmagent",
    "vmagent",
    "victoria-metrics",
    _vmagent,
    "POST",
    "/api/v1/import/prometheus?extra_label=job=bench&extra_label=instance=host-{:05}",
    _account_of_vmagent,
)
PUSHGATEWAY = Contender(
    "pushgateway",
    "prometheus-pushgateway",
    "prometheus-pushgateway",
    _pushgateway,
    "PUT",
    _PUSH_PATH,
    start_to_populate=_pushgateway_unchecked,
    most_series=1_000_000,
)
CEILING = Contender("ceiling", sys.executable, "", receiver, "PUT", _PUSH_PATH)
"""The cheap receiver itself: what the load generator can reach at most."""
CONTENDERS = {contender.name: contender for contender in (AGENT, VMAGENT, PUSHGATEWAY, CEILING)}


def missing_packages(contenders: list[Contender]) -> list[str]:
    """Name the Debian packages whose servers are not installed."""
    return [contender.package for contender in contenders if shutil.which(contender.binary) is None]


def read_account(contender: Contender, server: Server) -> Account | None:
    """Ask a contender for its account; None when it forwards nothing."""
    return contender.account(read_totals(server)) if contender.account else None


def read_totals(server: Server) -> Totals:
    """Read a server's own metrics."""
    with _DIRECT.open(f"{server.url}/metrics", timeout=60) as response:
        return _totals(response.read().decode())


def await_delivery(contender: Contender, server: Server, limit_s: float) -> Account | None:
    """Wait until nothing is unsent, or `limit_s` have passed."""
    deadline_s = time.monotonic() + limit_s
    while (account := read_account(contender, server)) and account.unsent and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return account


def cpu_s(server: Server) -> float:
    """CPU time of the process so far, user and system."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss_bytes(server: Server) -> int:
    """Most memory that the process ever had resident, or since `reset_peak`."""
    return _memory_bytes(server, "VmHWM")


def reset_peak(server: Server) -> None:
    """Let `peak_rss_bytes` begin anew with what is resident now."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def rss_bytes(server: Server) -> int:
    """Memory that the process has resident now."""
    return _memory_bytes(server, "VmRSS")


def _memory_bytes(server: Server, name: str) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def _totals(text: str) -> dict[str, float]:
    """Sum each metric's samples; also by the label `type` or `status_code` where there is one."""
    totals: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        label = re.search(r'(?:type|status_code)="[^"]*"', labels)
        for key in {name, f"{name}{{{label[0]}}}" if label else name}:
            totals[key] = totals.get(key, 0.0) + float(value)
    return totals
