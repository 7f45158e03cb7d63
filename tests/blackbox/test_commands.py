"""The commands as processes: how they refuse to start, how they end, and what they write to stdout and stderr."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.blackbox.checker import judge
from tests.blackbox.load import (
    Client,
    Load,
    accounts,
    metrics,
    one_value,
    request,
    settled_account,
    wait_for,
)
from tests.blackbox.ports import free_port
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step
from tests.blackbox.servers import Server, _start, _wait_ready

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "bridge")
STOP_WITHIN_S = 10
PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"=]*)(?: |$)')


def bridge(*arguments: str, stdin: bytes = b"", cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    paths = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        (*COMMAND, *arguments), input=stdin, capture_output=True, check=False, timeout=30, cwd=cwd, env=paths
    )


@dataclass(frozen=True, slots=True)
class Running:
    """An agent with its two outputs apart."""

    server: Server
    stdout: Path
    stderr: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.port

    def end_by(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code, which has to come within 10 s."""
        self.server.process.send_signal(number)
        return self.server.process.wait(STOP_WITHIN_S)


@contextmanager
def running(tmp: Path, *flags: str, config: str = "") -> Iterator[Running]:
    """Run an agent on the journal in `tmp`, killed at the end if it still runs."""
    port = free_port()
    tmp.mkdir(exist_ok=True)
    stdout, stderr, file = tmp / "stdout", tmp / "stderr", tmp / "pushbridge.yml"
    file.write_text(config, encoding="utf-8")
    arguments = (f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}", f"--storage.path={tmp / 'storage'}")
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen((*COMMAND, "run", *arguments, *flags), stdout=out, stderr=err, cwd=REPOSITORY)
    server = Server("pushbridge", f"http://127.0.0.1:{port}", port, process, stderr, tmp)
    try:
        _wait_ready(server, "/-/ready")
        yield Running(server, stdout, stderr)
    finally:
        server.kill()


FILES = {
    "file": "",
    "lock-taken/lock/x": "",
    "journal-taken/journal.db/x": "",
    "key.yml": "log:\n  level: info\nweb:\n  port: 1\n",
    "url.yml": "remote_write:\n- name: a\n  url: ftp://a/b\n",
    "broken.yml": "web: [",
}
FAULTS = {
    "storage is a file": ("--storage.path=file", r"storage\.path: cannot write to file: "),
    "storage is below a file": ("--storage.path=file/d", r"storage\.path: cannot write to file/d: "),
    "lock is a directory": ("--storage.path=lock-taken", r"storage\.path: cannot write to lock-taken: "),
    "journal is a directory": (
        "--storage.path=journal-taken",
        r"storage\.path: cannot open the journal journal-taken/",
    ),
    "unknown key": ("--config.file=key.yml", r"key\.yml:4: unknown key web\.port$"),
    "URL in the file": ("--config.file=url.yml", r"url\.yml:3: remote_write\.0\.url: .*: got 'ftp://a/b'$"),
    "URL of a flag": ("--remote-write.url=mimir:9009", r".*not an http\(s\) URL: got 'mimir:9009'$"),
    "no YAML": ("--config.file=broken.yml", r"broken\.yml:\d+: not valid YAML: "),
    "no file": ("--config.file=none.yml", r"--config\.file: cannot read none\.yml: "),
    "a directory for a file": ("--config.file=lock-taken", r"--config\.file: cannot read lock-taken: "),
    "size": ("--storage.max-bytes=lots", r".*storage\.max_bytes: not a size: got 'lots', want "),
    "address": ("--web.listen-address=here", r".*web\.listen_address: not an address: got 'here', want "),
}


@pytest.mark.parametrize(("argument", "message"), FAULTS.values(), ids=FAULTS)
def test_a_start_that_is_not_possible(argument: str, message: str, tmp_path: Path) -> None:
    """An agent that cannot start says why in one line on stderr and exits with 2."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    refused = bridge("run", "--web.listen-address=127.0.0.1:0", "--storage.path=default", argument, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, b"")
    (line,) = refused.stderr.decode().splitlines()
    assert re.match(f"pushbridge: {message}", line), line


@pytest.mark.parametrize(
    "command", [("run", "--web.listen-address"), ("receiver", "--listen-address")], ids=lambda c: c[0]
)
def test_port_in_use(command: tuple[str, str], tmp_path: Path) -> None:
    """A port that somebody else listens on is named in one line, and the exit code is 2."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        storage = (f"--storage.path={tmp_path}",) if command[0] == "run" else ()
        refused = bridge(command[0], f"{command[1]}={address}", *storage)
    assert (refused.returncode, refused.stdout) == (2, b"")
    (line,) = refused.stderr.decode().splitlines()
    assert line.startswith("pushbridge: ")
    assert "address already in use" in line.lower()
    assert address.rpartition(":")[2] in line


def test_second_agent_on_the_same_journal(tmp_path: Path) -> None:
    """A second agent on a journal in use names the first one's process and exits with 2; the first goes on."""
    with running(tmp_path) as first, Client(first.port) as client:
        client.must_accept(one_value("g", 1))
        refused = bridge("run", "--web.listen-address=127.0.0.1:0", f"--storage.path={tmp_path / 'storage'}")
        assert (refused.returncode, refused.stdout) == (2, b"")
        (line,) = refused.stderr.decode().splitlines()
        assert f"{tmp_path / 'storage'} is in use by process {first.server.process.pid};" in line
        client.must_accept(one_value("g", 2))
        assert first.end_by(signal.SIGTERM) == 0
    with running(tmp_path) as again:
        assert metrics(again.port)['numbered{instance="",job="g"}'] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("hanging", [False, True], ids=["receiver well", "receiver and a client hang"])
def test_end_under_load(number: signal.Signals, hanging: bool, tmp_path: Path) -> None:
    """A signal ends the agent within 10 s with 0, whoever hangs; what was acknowledged is delivered by the next one."""
    with ScriptedReceiver(*[Step(held=True)] * hanging) as receiver:
        with (
            running(tmp_path / "agent", config=receiver.config) as first,
            socket.create_connection(("127.0.0.1", first.port)) as half_sent,
            Load(first.port, writers=3) as load,
        ):
            if hanging:
                half_sent.sendall(b"PUT /metrics/job/half HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
            assert wait_for(load.acknowledged, lambda done: done > 500) > 500, first.stderr.read_text()
            receiver.wait_for(bool)
            assert first.end_by(number) == 0
            load.stop()
            assert first.stdout.read_bytes() == b""
            assert "event=stopped" in first.stderr.read_text().splitlines()[-1]
        receiver.stop()
        receiver.start()
        with running(tmp_path / "agent", config=receiver.config) as again:
            final = settled_account(again.port)
            assert final.balanced
            assert (final.pending, final.dropped) == (0, {})
            assert judge(load.log(), receiver.stored()) == []
            assert "half" not in metrics(again.port)


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_quit_over_http(method: str, tmp_path: Path) -> None:
    """/-/quit ends the agent with 0 when the lifecycle API is enabled."""
    with running(tmp_path, "--web.enable-lifecycle") as agent:
        assert request(agent.port, method, "/-/quit").status == 200
        assert agent.server.process.wait(STOP_WITHIN_S) == 0
        assert agent.stdout.read_bytes() == b""


def unquoted(text: str) -> str:
    """Undo the escapes of a quoted value."""
    return re.sub(r"\\(.)", lambda escape: "\n" if escape[1] == "n" else escape[1], text)


def logfmt(line: str) -> dict[str, str]:
    """Read a line of logfmt; AssertionError when it is none."""
    values: dict[str, str] = {}
    position = 0
    while position < len(line):
        pair = PAIR.match(line, position)
        assert pair is not None, f"no logfmt at {position}: {line!r}"
        key, value = pair.groups()
        assert key not in values, line
        values[key] = unquoted(value[1:-1]) if value.startswith('"') else value
        position = pair.end()
    return values


WORDS = [
    'out of bounds: got "1", want > 2',
    "C:\\data\\wal is full = 1\\",
    "first line\nlevel=error event=forged",
    "ts=1 level=error event=forged",
    "größer als zulässig \u2028 \N{SNOWMAN}",
    '{"error": "quoted \\"twice\\""}',
    "short",
    "",
]
CONTROLS = ["tab\tand\tno\tspace", "carriage return\r\nlevel=error", "bell\x07", "\x1b[31mred"]


def lines_with(words: list[str], tmp: Path, *flags: str) -> list[str]:
    """Run an agent whose receivers refuse a batch with one of `words` each; return the lines of stderr."""
    with ExitStack() as stack:
        receivers = [stack.enter_context(ScriptedReceiver(Step(400, text.encode()))) for text in words]
        targets = "".join(
            f"- {{url: '{at.url}', name: '{number}', on_rejected: drop}}\n" for number, at in enumerate(receivers)
        )
        agent = stack.enter_context(running(tmp, "--log.level=debug", *flags, config=f"remote_write:\n{targets}"))
        client = stack.enter_context(Client(agent.port))
        client.must_accept(one_value("g", 1))
        assert request(agent.port, "PUT", "/metrics/job/a%20%22b%22", b'a{b="\\q"} 1\n').status == 400
        wait_for(lambda: accounts(agent.port), lambda now: not any(one.pending for one in now.values()))
        assert agent.end_by(signal.SIGTERM) == 0
        assert agent.stdout.read_bytes() == b""
        return agent.stderr.read_bytes().decode().removesuffix("\n").split("\n")


def test_log_is_logfmt(tmp_path: Path) -> None:
    """Every line on stderr is logfmt, whatever a receiver or a pusher said, and quotes them in full."""
    lines = [logfmt(line) for line in lines_with(WORDS, tmp_path)]
    assert all(list(line)[:3] == ["ts", "level", "event"] for line in lines)
    assert {line["event"] for line in lines} == {
        "target_added",
        "started",
        "push_refused",
        "remote_write_rejected",
        "stopped",
    }
    quoted = {int(line["target"]): line["words"] for line in lines if line["event"] == "remote_write_rejected"}
    assert [quoted[at] for at in range(len(WORDS))] == WORDS


def test_log_has_no_control_characters(tmp_path: Path) -> None:
    """A receiver's control characters neither break a line of logfmt nor reach a terminal."""
    lines = lines_with(CONTROLS, tmp_path)
    assert all(logfmt(line) for line in lines)
    assert not re.search(r"[\x00-\x1f]", "".join(lines))
    assert any(r'words="\u001b[31mred"' in line or r"words=\u001b[31mred" in line for line in lines)
    assert not any(r"\\u" in line for line in lines)


def test_log_as_json(tmp_path: Path) -> None:
    """With --log.format=json every line on stderr is a JSON object with time, level and event."""
    lines = [json.loads(line) for line in lines_with(WORDS + CONTROLS, tmp_path, "--log.format=json")]
    assert all({"ts", "level", "event"} <= line.keys() for line in lines)
    quoted = {int(line["target"]): line["words"] for line in lines if line["event"] == "remote_write_rejected"}
    assert [quoted[at] for at in range(len(WORDS + CONTROLS))] == [*WORDS, *CONTROLS]


PUSH = b"PUT /metrics/job/a HTTP/1.1\r\nHost: a\r\n"
STRANGE = {
    "push cut short": PUSH + b"Content-Length: 9\r\n\r\na 1\n",
    "no HTTP": b"garbage\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "chunk without a size": PUSH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "path with raw bytes": b"PUT /metrics/job/\xff HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\na 1\n",
    "header with raw bytes": PUSH + b"Content-Encoding: \xff\r\nContent-Length: 4\r\n\r\na 1\n",
}


def check_quiet(agent: Running) -> None:
    """Check that nothing was accepted, and that the whole log is logfmt."""
    pushes = {key: value for key, value in metrics(agent.port).items() if key.startswith("pushbridge_pushes_total")}
    accepted = [key for key, value in pushes.items() if 'outcome="accepted"' in key and value]
    assert agent.end_by(signal.SIGTERM) == 0
    assert accepted == []
    assert all(logfmt(line) for line in agent.stderr.read_text().removesuffix("\n").split("\n"))


@pytest.mark.parametrize("sent", STRANGE.values(), ids=STRANGE)
def test_strange_request_leaves_the_log_readable(sent: bytes, tmp_path: Path) -> None:
    """Whatever a client sends, stderr stays logfmt and nothing counts as accepted."""
    with running(tmp_path) as agent:
        with socket.create_connection(("127.0.0.1", agent.port), timeout=STOP_WITHIN_S) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass
        check_quiet(agent)


def test_push_reset_by_its_sender(tmp_path: Path) -> None:
    """A connection that is reset in the middle of a body is no accepted push and no traceback."""
    with running(tmp_path) as agent:
        with socket.create_connection(("127.0.0.1", agent.port)) as connection:
            connection.sendall(PUSH + b"Content-Length: 9\r\n\r\na 1\n")
            assert metrics(agent.port)  # by now the agent waits for the rest of the body
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        check_quiet(agent)


def test_sender_that_asks_before_it_sends(tmp_path: Path) -> None:
    """A client that expects "100 Continue", as curl does with a large body, gets it and need not time out."""
    with running(tmp_path) as agent, socket.create_connection(("127.0.0.1", agent.port), timeout=3) as connection:
        connection.sendall(PUSH + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"a 1\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    """An agent whose stderr is gone, or on a full disk, goes on taking and delivering pushes."""
    with ScriptedReceiver(Step(500)) as receiver:
        port = free_port()
        flags = (f"--web.listen-address=127.0.0.1:{port}", f"--storage.path={tmp_path}")
        process = subprocess.Popen(
            (*COMMAND, "run", *flags, f"--remote-write.url={receiver.url}"), stderr=subprocess.PIPE, cwd=REPOSITORY
        )
        try:
            assert process.stderr is not None
            assert b"event=target_added" in process.stderr.readline()
            assert b"event=started" in process.stderr.readline()
            process.stderr.close()
            with Client(port) as client:
                client.must_accept(one_value("g", 1))
                receiver.wait_for(lambda requests: len(requests) == 2, 5)
                client.must_accept(one_value("g", 2))
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Server]:
    """Run the embedded receiver as its own command."""
    port = free_port()
    command = (*COMMAND, "receiver", f"--listen-address=127.0.0.1:{port}")
    with _start("receiver", command, port, "/", tmp_path / "receiver") as server:
        yield server


def test_push_command_reaches_the_receiver(receiver: Server, tmp_path: Path) -> None:
    """What `push` reads from stdin or a file shows in `receiver`, with all grouping labels."""
    flag = f"--remote-write.url={receiver.url}/api/v1/write"
    file = tmp_path / "metrics.prom"
    file.write_bytes(b"from_file 2\n")
    with running(tmp_path / "agent", flag) as agent:
        url = f"--url={agent.server.url}"
        for arguments, stdin in (((), b"from_stdin 1\n"), ((str(file),), b"")):
            pushed = bridge("push", "--job=a/b", "--label=host=h 1", url, *arguments, stdin=stdin)
            assert (pushed.returncode, pushed.stdout, pushed.stderr) == (0, b"", b"")
        assert settled_account(agent.port).pending == 0
        samples = json.loads(request(receiver.port, "GET", "/api/v1/samples").text)["samples"]
        labels = {"job": "a/b", "host": "h 1"}
        assert [sample["value"] for sample in samples if sample["labels"] == {"__name__": "from_stdin", **labels}] == [
            "1"
        ]
        assert [sample["value"] for sample in samples if sample["labels"] == {"__name__": "from_file", **labels}] == [
            "2"
        ]
        assert "from_file" in request(receiver.port, "GET", "/").text


def test_push_command_says_how_long_values_stay(tmp_path: Path) -> None:
    """`push --ttl` sets the TTL of its group; a TTL that is none is a wrong flag."""
    with running(tmp_path) as agent:
        url = f"--url={agent.server.url}"
        assert bridge("push", "--job=j", "--ttl=8d", url, stdin=b"a 1\n").returncode == 0
        (group,) = json.loads(request(agent.port, "GET", "/api/v1/groups").text)["data"]
        assert round(group["expires_seconds"] - group["push_time_seconds"]) == 8 * 86400
        refused = bridge("push", "--job=j", "--ttl=soon", url, stdin=b"a 1\n")
    assert (refused.returncode, b"not a duration: got 'soon'" in refused.stderr) == (2, True)


def test_push_command_that_fails(tmp_path: Path) -> None:
    """A push that is refused, or that finds no agent, exits with 1 and says why in one line on stderr."""
    with running(tmp_path) as agent:
        refused = bridge("push", "--job=j", f"--url={agent.server.url}", stdin=b"a 1\nb zwei\n")
    nobody = bridge("push", "--job=j", f"--url={agent.server.url}", stdin=b"a 1\n")
    for failed, words in (
        (refused, "the agent answered 400: .*line 2"),
        (nobody, f"cannot push to {agent.server.url}"),
    ):
        assert (failed.returncode, failed.stdout) == (1, b"")
        (line,) = failed.stderr.decode().splitlines()
        assert re.match(f"pushbridge: {words}", line), line
