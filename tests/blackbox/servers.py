"""Starts the real servers (and our agent) as processes on free loopback ports, and stops them.

Each starter returns once the server answers its readiness URL, so no test has to wait or guess. It blocks; from
async tests call it with `asyncio.to_thread`. What is sent to the servers does not belong here.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.blackbox import binaries
from tests.blackbox.ports import free_port

_READY_WITHIN_S = 30.0
_STOP_WITHIN_S = 30.0
_POLL_S = 0.02
_REPOSITORY = Path(__file__).resolve().parents[2]
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def needs(binary: str) -> pytest.MarkDecorator:
    """Skip a test when `binary` is not installed.

    With CI=true it runs and fails instead, but for what Debian does not have; it fails as well when a variable names
    a binary that is not there.
    """
    command = binaries.command(binary)
    may_lack = binary in binaries.NOT_IN_DEBIAN or os.environ.get("CI", "").lower() != "true"
    absent = command == binary and may_lack and shutil.which(binary) is None
    return pytest.mark.skipif(absent, reason=_absence(binary))


def _absence(binary: str) -> str:
    if binary in binaries.NOT_IN_DEBIAN:
        return f"Debian has no {binary}; {binaries.VARIABLES[binary]} may name one"
    return f"{binaries.command(binary)} is not installed; see tests/blackbox/install_servers.sh"


@dataclass(frozen=True, slots=True)
class Server:
    """One running server process; leaving its `with` block stops it."""

    name: str
    url: str
    """Scheme, host and port, without a final slash."""
    port: int
    process: subprocess.Popen[bytes]
    log_path: Path
    """Where standard output and error go; a restart on the same directory appends."""
    directory: Path
    """The server's own directory; it survives `stop` and `kill`."""

    def stop(self) -> int:
        """Ask the process to end (SIGTERM), wait for it and return its exit code.

        Raises AssertionError when it has not ended after 30 s; it is killed then.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            message = f"{self.name}: still running {_STOP_WITHIN_S:g} s after SIGTERM; log:\n{self.log_tail()}"
            raise AssertionError(message) from None

    def kill(self) -> None:
        """End the process at once (SIGKILL) and wait until it is gone; no effect on an ended one."""
        self.process.kill()
        self.process.wait()

    def log_tail(self, max_chars: int = 4000) -> str:
        """Return the last `max_chars` characters of the log."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")[-max_chars:]

    def __enter__(self) -> Self:
        """Hand over the running server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self.stop()


def pushgateway(tmp: Path, *flags: str, port: int | None = None) -> Server:
    """Start Debian's Pushgateway without persistence; `flags` come last and win."""
    port = port or free_port()
    arguments = (f"--web.listen-address=127.0.0.1:{port}", "--persistence.file=", *flags)
    return _start("prometheus-pushgateway", ("prometheus-pushgateway", *arguments), port, "/-/ready", tmp)


def prometheus(tmp: Path, *flags: str, port: int | None = None, config: str = "scrape_configs: []\n") -> Server:
    """Start Prometheus as a remote_write receiver at /api/v1/write; unless `config` says so it scrapes nothing."""
    port = port or free_port()
    tmp.mkdir(parents=True, exist_ok=True)
    config_path = tmp / "prometheus.yml"
    config_path.write_text(config, encoding="utf-8")
    arguments = (
        f"--config.file={config_path}",
        f"--storage.tsdb.path={tmp / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
    )
    return _start("prometheus", ("prometheus", *arguments, *flags), port, "/-/ready", tmp)


def victoria_metrics(tmp: Path, *flags: str, port: int | None = None) -> Server:
    """Start VictoriaMetrics as a remote_write receiver at /api/v1/write."""
    port = port or free_port()
    arguments = (f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={tmp / 'data'}", *flags)
    return _start("victoria-metrics", ("victoria-metrics", *arguments), port, "/health", tmp)


def node_exporter(tmp: Path, directory: Path) -> Server:
    """Start Debian's node_exporter with its textfile collector alone."""
    port = free_port()
    arguments = (
        f"--web.listen-address=127.0.0.1:{port}",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={directory}",
        "--web.disable-exporter-metrics",
    )
    return _start("prometheus-node-exporter", ("prometheus-node-exporter", *arguments), port, "/", tmp)


def nginx(tmp: Path, *servers: str) -> Server:
    """Start nginx with these `server` blocks, and one more that only tells that it is ready."""
    port = free_port()
    tmp.mkdir(parents=True, exist_ok=True)
    paths = "".join(f"{name}_temp_path {tmp / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    ready = f"server {{ listen 127.0.0.1:{port}; location / {{ return 200; }} }}"
    # Workers of another user could not read what a test keeps for itself.
    user = "user root;" if os.geteuid() == 0 else ""
    config = tmp / "nginx.conf"
    config.write_text(
        f"{user} worker_processes 1; daemon off; pid {tmp / 'nginx.pid'}; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; client_max_body_size 64m; {paths}\n{ready}\n{''.join(servers)} }}\n",
        encoding="utf-8",
    )
    # The directory for what comes before the configuration is read.
    return _start("nginx", ("nginx", "-p", str(tmp), "-e", "stderr", "-c", str(config)), port, "/", tmp)


def agent(tmp: Path, *flags: str, config: str | None = None, port: int | None = None) -> Server:
    """Start `pushbridge run` with its journal in `tmp`; a second start on the same `tmp` takes up that journal.

    `config` is the text of a configuration file; `flags` come last and win over it.
    """
    port = port or free_port()
    return _start("pushbridge", _agent_command(tmp, flags, config, port), port, "/-/ready", tmp)


def kill_while_starting(tmp: Path, *flags: str, config: str | None = None, port: int, after_s: float) -> None:
    """Start an agent as `agent` does and kill it before anybody knows how far it came."""
    with subprocess.Popen(
        _agent_command(tmp, flags, config, port), stderr=subprocess.DEVNULL, cwd=_REPOSITORY
    ) as process:
        time.sleep(after_s)
        process.kill()


def _agent_command(tmp: Path, flags: tuple[str, ...], config: str | None, port: int) -> tuple[str, ...]:
    tmp.mkdir(parents=True, exist_ok=True)
    arguments = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.path={tmp / 'storage'}"]
    # Pushes are made large by long labels.
    arguments.append("--push.max-label-value-length=0")
    if config is not None:
        config_path = tmp / "pushbridge.yml"
        config_path.write_text(config, encoding="utf-8")
        arguments.append(f"--config.file={config_path}")
    return (sys.executable, "-m", "bridge", "run", *arguments, *flags)


def _start(name: str, command: tuple[str, ...], port: int, ready_path: str, tmp: Path) -> Server:
    program, *arguments = command
    program = binaries.command(program)
    if shutil.which(program) is None:
        pytest.fail(_absence(command[0]))
    tmp.mkdir(parents=True, exist_ok=True)
    log_path = tmp / f"{name}.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen((program, *arguments), stdout=log, stderr=subprocess.STDOUT, cwd=_REPOSITORY)
    server = Server(name, f"http://127.0.0.1:{port}", port, process, log_path, tmp)
    try:
        _wait_ready(server, ready_path)
    except BaseException:
        server.kill()
        raise
    return server


def _wait_ready(server: Server, ready_path: str) -> None:
    deadline_s = time.monotonic() + _READY_WITHIN_S
    while not _answers_200(server.url + ready_path):
        if (code := server.process.poll()) is not None:
            pytest.fail(f"{server.name}: ended with code {code} before it was ready; log:\n{server.log_tail()}")
        if time.monotonic() > deadline_s:
            pytest.fail(f"{server.name}: not ready after {_READY_WITHIN_S:g} s; log:\n{server.log_tail()}")
        time.sleep(_POLL_S)
    if (code := server.process.poll()) is not None:
        pytest.fail(f"{server.name}: somebody else answers at {server.url}, it ended with code {code}")


def _answers_200(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
