"""The command line: flags and their help, exit codes, and what each command says when it cannot."""

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result
from pydantic import BaseModel

from bridge import __version__
from bridge.cli import main, read_config
from bridge.config.sections import Log, Push, Storage, Web
from bridge.errors import ConfigError
from bridge.receiver import SampleStore
from bridge.wire import snappy_block
from tests.made import encode_series
from tests.web.test_server import Site, running

DEADLINE_S = 30
SECTIONS: dict[str, type[BaseModel]] = {"web": Web, "storage": Storage, "push": Push, "log": Log}
SETTINGS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


def invoke(*arguments: str, body: str | bytes = "") -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, arguments, input=body)


@asynccontextmanager
async def command(*arguments: str, temporary: Path | None = None) -> AsyncIterator[Process]:
    """Run a command as a process of its own, which is gone when the block ends."""
    environment = {**os.environ, **({"TMPDIR": str(temporary)} if temporary else {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge", *arguments, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process: Process, words: str) -> str:
    """Read the command's output up to a line with these words."""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if words in line:
            return line
    raise AssertionError(f"ended without saying {words!r}")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is bound and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as started:
        yield started


@pytest.mark.parametrize(("section", "key"), SETTINGS, ids=".".join)
def test_every_setting_has_a_flag_with_its_help(section: str, key: str) -> None:
    """The help of run names each setting, says what it does and tells its default."""
    shown = " ".join(invoke("run", "--help").output.split())
    field = SECTIONS[section].model_fields[key]
    assert f"--{section}.{key.replace('_', '-')} " in shown
    assert field.description is not None
    default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    assert f"{field.description} [default: {default}]" in shown or (default == "" and field.description in shown)


def test_every_command_has_a_help() -> None:
    """Each command that the help lists explains itself."""
    listed = invoke("--help").output
    assert set(main.commands) >= {"run", "check-config", "push", "receiver", "demo"}
    for name in main.commands:
        assert re.search(rf"^  {name} +\S", listed, re.MULTILINE)
        answer = invoke(name, "-h")
        assert (answer.exit_code, answer.output.startswith("Usage: ")) == (0, True)


def test_a_bad_moment_stops_the_start() -> None:
    """--remote-write.since says what it wants."""
    done = invoke("run", "--remote-write.since=soon")
    assert (done.exit_code, "want a duration back from now (7d)" in " ".join(done.stderr.split())) == (2, True)


def test_the_version_is_told() -> None:
    """--version names the program and its version."""
    assert invoke("--version").output == f"pushbridge, version {__version__}\n"


def parsed(*arguments: str) -> dict[str, object]:
    """What the flags of run say."""
    context = main.commands["run"].make_context("run", list(arguments))
    return {
        name: value for name, value in context.params.items() if name not in {"file", "urls", "since", "directories"}
    }


def test_flags_stand_over_the_file(tmp_path: Path) -> None:
    """A flag that is given wins, one that is not leaves the file's value alone, and targets add up."""
    file = tmp_path / "pushbridge.yml"
    file.write_text(
        "web: {enable_admin_api: true, listen_address: '127.0.0.1:1'}\n"
        "push: {max_body_bytes: 1MiB}\n"
        "remote_write: [{url: 'http://one/write'}]\n"
    )
    flags = parsed("--web.listen-address", "127.0.0.1:2", "--web.enable-lifecycle", "--storage.retention=1h")
    config = read_config(str(file), ("http://two/write",), flags)
    assert (config.web.enable_admin_api, config.web.enable_lifecycle) == (True, True)
    assert (config.web.listen_address, config.storage.retention, config.push.max_body_bytes) == (
        "127.0.0.1:2",
        3600,
        1 << 20,
    )
    assert [target.url for target in config.remote_write] == ["http://one/write", "http://two/write"]


@pytest.mark.parametrize(("section", "key"), SETTINGS, ids=".".join)
def test_a_flag_sets_its_setting(section: str, key: str) -> None:
    """A bad value is refused by name, so each flag reaches the setting that it is called after."""
    name = f"--{section}.{key.replace('_', '-')}"
    if SECTIONS[section].model_fields[key].annotation is bool:
        config = read_config(None, (), parsed(name))
        assert getattr(getattr(config, section), key) is True
        return
    try:
        config = read_config(None, (), parsed(name, "7"))
    except ConfigError as error:
        assert str(error).startswith(f"command line: {section}.{key}: ")  # noqa: PT017 - free texts take any value
    else:
        assert str(getattr(getattr(config, section), key)) == "7"


BAD = """\
web:
  listen_adress: 127.0.0.1:9091
storage:
  path: data
  retention: often
remote_write:
  - url: http://one/write
  - url: ftp://two
"""
MORE_BAD = """\
textfile: [{directory: /nowhere/a},
           {directory: /nowhere/b}]
rules:
  - match: {a-b: x, c: (}
  - match: {job: x}
    expect_every: 40d
remote_write:
  - url: http://one/
    basic_auth: {username: a, username_file: b, password: c, password_file: d}
  - url: http://two/
    headers: {X-A: b}
  - url: http://two/
"""
DOUBTFUL = """\
rules:
  - match: {job: a}
  - match: {job: a, instance: b}
  - match: {instance: .*}
  - match: {job: b}
remote_write:
  - url: http://mimir:9009
    basic_auth: {username_file: DIRECTORY, password_file: missing}
  - url: http://mimir:9009/api/v1/push
    tenant_header: X-Team
    http_headers:
      X-Key: {files: [key, latin]}
    oauth2:
      client_id: a
      client_secret_file: key
      token_url: http://mimir/
      tls_config:
        ca_file: missing
"""
DOUBTS = """\
{file}:3: warning: rules.1: never used: rules.0 matches all of its groups, and the first match wins
{file}:5: warning: rules.3: never used: rules.2 matches all of its groups, and the first match wins
{file}:7: warning: remote_write.0.url: has no path; want for example /api/v1/push (Mimir, Cortex), \
/api/v1/receive (Thanos) or /api/v1/write (Prometheus and others)
{file}:8: warning: remote_write.0.basic_auth.username_file: cannot read {here}: Is a directory; \
nothing is sent that needs it
{file}:8: warning: remote_write.0.basic_auth.password_file: cannot read {here}/missing: No such file or directory; \
nothing is sent that needs it
{file}:10: warning: remote_write.1.tenant_header: has no effect: no rule gives a tenant
{file}:12: warning: remote_write.1.http_headers.X-Key.files.1: cannot read {here}/latin: not UTF-8; \
nothing is sent that needs it
{file}:18: warning: remote_write.1.oauth2.tls_config.ca_file: cannot read {here}/missing: No such file or directory; \
nothing is sent that needs it
"""


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        pytest.param(
            BAD,
            [
                "{file}:2: unknown key web.listen_adress",
                "{file}:5: storage.retention: not a duration: got 'often'",
                "{file}:8: remote_write.1.url: not an http(s) URL: got 'ftp://two'",
            ],
            id="every fault with its line",
        ),
        pytest.param(
            MORE_BAD,
            [
                "{file}:1: textfile.0.directory: want a directory, got /nowhere/a",
                "{file}:2: textfile.1.directory: want a directory, got /nowhere/b",
                "{file}:4: rules.0.match.a-b: not a label name: got 'a-b'",
                "{file}:4: rules.0.match.c: not a regular expression: got '('",
                "{file}:6: rules.1.expect_every: got 40d with its grace, want less than push.forget_after=30d",
                "{file}:9: remote_write.0.basic_auth: at most one of username, username_file",
                "{file}:9: remote_write.0.basic_auth: at most one of password, password_file",
                "{file}:12: remote_write.2: two remote_write targets are called 'two/'; give each a name",
            ],
            id="faults in one place and between places",
        ),
        pytest.param(
            "web:\n  listen_address: :1\n  listen_address: nine\nlog: {}\nlog: {}\n",
            [
                "{file}:3: not valid YAML: key listen_address stands twice",
                "{file}:3: web.listen_address: not an address: got 'nine'",
                "{file}:5: not valid YAML: key log stands twice",
            ],
            id="keys that stand twice",
        ),
        pytest.param("web: [1\n", ["{file}:2: not valid YAML"], id="no YAML"),
        pytest.param("- a\n", ["{file}: want a mapping"], id="no mapping"),
        pytest.param("webb: {}\n", ["{file}:1: unknown key webb"], id="unknown section"),
        pytest.param(b"\xff\xfe", ["--config.file: cannot read {file}"], id="no UTF-8"),
        pytest.param(None, ["--config.file: cannot read {file}"], id="no file"),
    ],
)
@pytest.mark.parametrize("start", [["check-config"], ["run", "--config.file"]], ids=["check-config", "run"])
def test_a_bad_file_stops_the_start(
    tmp_path: Path, start: list[str], text: str | bytes | None, faults: list[str]
) -> None:
    """Every fault is told on standard error with file and line, and the exit code is 2."""
    file = tmp_path / "pushbridge.yml"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    answer = invoke(*start, str(file))
    assert (answer.exit_code, answer.stdout) == (2, "")
    told = [line.removeprefix("pushbridge: ") for line in answer.stderr.splitlines()]
    assert len(told) == len(faults), told
    for line, fault in zip(told, faults, strict=True):
        assert line.startswith(fault.format(file=file))


def test_a_directory_is_no_config_file(tmp_path: Path) -> None:
    """A path that cannot be read is told, with the exit code 2."""
    answer = invoke("check-config", str(tmp_path))
    assert (answer.exit_code, f"cannot read {tmp_path}" in answer.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("remote_write: [{url: 'http://a/api/v1/write'}]\nstorage:\n", []),
        ("web: {listen_address: ':9091'}\nstorage:\n", ["no target: "]),
        ("", ["no target: ", "nothing is set, so the defaults hold"]),
        ("# nothing\n", ["no target: ", "nothing is set, so the defaults hold"]),
    ],
)
def test_a_good_file_is_told_so(tmp_path: Path, text: str, notes: list[str]) -> None:
    """A file without fault gives one line and the exit code 0; stderr says where samples go when that is nowhere."""
    file = tmp_path / "pushbridge.yml"
    file.write_text(text)
    answer = invoke("check-config", str(file))
    assert (answer.exit_code, answer.stdout) == (0, f"{file}: ok\n")
    for line, note in zip(answer.stderr.splitlines(), notes, strict=True):
        assert line.startswith(f"{file}: note: ")
        assert note in line


def test_a_file_in_doubt_is_good(tmp_path: Path) -> None:
    """What is accepted and hardly meant is told on stderr with its line, and the exit code is 0."""
    file = tmp_path / "pushbridge.yml"
    file.write_text(DOUBTFUL.replace("DIRECTORY", str(tmp_path)))
    (tmp_path / "key").write_text("a key")
    (tmp_path / "latin").write_bytes(b"\xff")
    answer = invoke("check-config", str(file))
    assert (answer.exit_code, answer.stdout) == (0, f"{file}: ok\n")
    assert answer.stderr.splitlines() == DOUBTS.format(file=file, here=tmp_path).splitlines()


def test_flags_do_not_hide_what_has_the_wrong_form(tmp_path: Path) -> None:
    """A section that is a text is told as that, also where a flag adds to it."""
    file = tmp_path / "pushbridge.yml"
    file.write_text("web: x\nremote_write: y\n")
    answer = invoke("run", f"--config.file={file}", "--web.listen-address=:1", "--remote-write.url=http://a/")
    assert answer.exit_code == 2
    assert answer.stderr.splitlines() == [
        f"pushbridge: {file}:1: web: want a mapping, got a text",
        f"pushbridge: {file}:2: remote_write: want a list, got a text",
    ]


async def push(site: Site, *arguments: str, body: str | bytes = "a 1\n") -> Result:
    """Push in a thread, as the agent runs in this one."""
    return await asyncio.to_thread(invoke, "push", "--url", site.url, *arguments, body=body)


@pytest.mark.parametrize("value", ["i", "a/b", "", "..", "a b+c", "ü?#%2F&=", '"\\'], ids=repr)
async def test_push_gives_the_agent_what_it_reads(site: Site, value: str) -> None:
    """Standard input arrives in the group that job and labels name, whatever characters they have."""
    answer = await push(site, "--job", "the/job", "--label", f"instance={value}")
    assert (answer.exit_code, answer.stderr) == (0, "")
    (group,) = await site.groups()
    assert group["labels"] == {"job": "the/job", "instance": value}
    assert group["a"]["metrics"][0]["value"] == "1"


async def test_push_adds_and_replaces(site: Site, tmp_path: Path) -> None:
    """A file is added to the group family by family, or replaces it when so asked."""
    file = tmp_path / "metrics.prom"
    file.write_text("b 2\n")
    await push(site, "--job", "j")
    assert (await push(site, "--job", "j", str(file))).exit_code == 0
    assert (await site.groups())[0].keys() >= {"a", "b"}
    assert (await push(site, "--job", "j", "--replace", str(file))).exit_code == 0
    assert "a" not in (await site.groups())[0]


@pytest.mark.parametrize(
    ("arguments", "body", "words"),
    [
        pytest.param(["--job", "j"], "a 1\nb zwei\n", "answered 400: text format parsing error in line 2", id="body"),
        pytest.param(["--job", "j", "--label", "a-b=1"], "a 1\n", "answered 400: improper label name", id="label name"),
    ],
)
async def test_push_tells_a_refusal(site: Site, arguments: list[str], body: str, words: str) -> None:
    """What the agent refuses is told in its own words, with the exit code 1."""
    answer = await push(site, *arguments, body=body)
    assert (answer.exit_code, words in answer.stderr) == (1, True)
    assert "Traceback" not in answer.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            ["--job", "j", "--label", "instance"], "got 'instance', want NAME=VALUE", id="label without value"
        ),
        pytest.param(["--label", "a=b"], "--job", id="no job"),
        pytest.param(["--job", "j", "/nowhere/metrics.prom"], "/nowhere/metrics.prom", id="no file"),
        pytest.param(["--job", "j", "/"], "'/': Is a directory", id="a directory"),
        pytest.param(["--job", ""], "--job: is empty", id="no job name"),
        pytest.param(["--job", "j", "--label", "=b"], "got '=b', want NAME=VALUE", id="label without name"),
        pytest.param(["--job", "j", "--label", "job=k"], "given twice, by --job too: got 'j' and 'k'", id="two jobs"),
        pytest.param(
            ["--job", "j", "--label", "a=1", "--label", "a=2"], "a is given twice: got '1' and '2'", id="label twice"
        ),
        pytest.param(["--job", "j", "--label", "a=\udcff"], "the value of a is not UTF-8", id="no UTF-8"),
        pytest.param(["--job", "j", "--ttl", "soon"], "'--ttl': not a duration: got 'soon'", id="TTL"),
        pytest.param(["--job", "j", "--ttl", "-1d"], "'--ttl': not a duration: got '-1d'", id="negative TTL"),
        pytest.param(["--job", "j", "--url", "gopher://127.0.0.1"], "'--url': want http://host:port", id="scheme"),
        pytest.param(["--job", "j", "--url", "127.0.0.1:9091"], "'--url': want http://host:port", id="no scheme"),
        pytest.param(["--job", "j", "--url", "http://127.0.0.1:port"], "'--url': Port could not", id="port"),
        pytest.param(["--job", "j", "--nonsense"], "No such option", id="unknown flag"),
        pytest.param(["--job", "j", "-", "-"], "unexpected extra argument", id="two files"),
    ],
)
def test_push_refuses_arguments_that_make_no_sense(arguments: list[str], words: str) -> None:
    """A mistake in the arguments is told in one line before anything is sent, with the exit code 2."""
    answer = invoke("push", *arguments)
    assert (answer.exit_code, answer.stderr.count("\n"), words in answer.stderr) == (2, 1, True), answer.stderr


def test_push_tells_that_the_agent_is_not_there(taken: int) -> None:
    """An address where nobody answers is named, with the exit code 1."""
    url = f"http://127.0.0.1:{taken}"
    answer = invoke("push", "--job", "j", "--url", url, body="a 1\n")
    assert answer.exit_code == 1
    assert answer.stderr.startswith(f"pushbridge: cannot push to {url}: ")


async def test_push_tells_that_it_met_no_http_server() -> None:
    """Another protocol's server is told like any other that cannot be pushed to."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"a 1\n")  # a reset of what is still unread would be another fault
        writer.write(b"SSH-2.0-server\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        answer = await asyncio.to_thread(invoke, "push", "--job", "j", "--url", url, body="a 1\n")
    assert (answer.exit_code, answer.stderr.startswith(f"pushbridge: cannot push to {url}: ")) == (1, True)


@pytest.mark.parametrize(
    "replace",
    [
        pytest.param(
            [],
            id="post",
        ),
        pytest.param(["--replace"], id="put"),
    ],
)
async def test_push_does_not_take_a_redirect_for_success(replace: list[str]) -> None:
    """A login page in between, which took no metrics, is an error."""

    async def answer(request: web.Request) -> web.Response:
        elsewhere = {"Location": "/login"}
        return web.Response() if request.path == "/login" else web.Response(status=302, headers=elsewhere)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        arguments = ["push", "--job", "j", "--url", str(server.make_url("")), *replace]
        found = await asyncio.to_thread(invoke, *arguments, body="a 1\n")
    assert found.exit_code == 1


@pytest.mark.parametrize(
    "stop",
    [
        signal.SIGINT,
        signal.SIGTERM,
    ],
)
async def test_the_receiver_takes_samples_until_it_is_stopped(tmp_path: Path, stop: signal.Signals) -> None:
    """The receiver tells its address, stores what it gets, shows it, and ends with exit code 0."""
    file = tmp_path / "samples.db"
    async with command("receiver", "--listen-address", "127.0.0.1:0", "--file", str(file)) as process:
        url = (await line_with(process, "receiving on")).split()[2].rstrip(",")
        body = snappy_block.compress(encode_series([("__name__", "a")], 7.0, 1000))
        headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
        async with aiohttp.ClientSession() as http:
            assert (await http.post(url, data=body, headers=headers)).status == 204
            page = await (await http.get(url.removesuffix("api/v1/write"))).text()
        assert '<td class="series">a</td><td>7</td>' in page
        process.send_signal(stop)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
    store = SampleStore(str(file))
    assert [sample.value_text for sample in store.samples()] == ["7"]
    store.close()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--listen-address", "127.0.0.1:{port}"], id="port in use"),
        pytest.param(["--listen-address", "nonsense"], id="no address"),
        pytest.param(["--listen-address", "127.0.0.1:0", "--file", "/nowhere/samples.db"], id="no file"),
    ],
)
def test_a_receiver_that_cannot_start_says_why(taken: int, arguments: list[str]) -> None:
    """An address or file that cannot be used gives one line and the exit code 2."""
    answer = invoke("receiver", *(argument.format(port=taken) for argument in arguments))
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert answer.stderr.startswith("pushbridge: receiver: ")
    assert answer.stderr.count("\n") == 1
