"""The demo shows the whole way, and leaves nothing behind."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
import pytest

from bridge.demo import run_demo
from tests.test_cli import DEADLINE_S, command, line_with

USUAL_PORT = 9091
ROOT = Path(__file__).resolve().parents[1]
IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def left_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_it_ends_by_itself_after_the_time_given(tmp_path: Path) -> None:
    """With --for the demo shows what arrived and exits 0; a usual port that is taken is no obstacle."""
    with ExitStack() as stack:
        with suppress(OSError):  # whoever else has the port serves as well
            stack.enter_context(socket.create_server(("127.0.0.1", USUAL_PORT)))
        async with command("demo", "--for", "3", temporary=tmp_path) as process:
            said, errors = await process.communicate()
    lines = said.decode().splitlines()
    assert (process.returncode, errors) == (0, b"")
    assert lines[0].startswith("agent     http://127.0.0.1:")
    assert f":{USUAL_PORT}/" not in lines[0]
    arrived = [line for line in lines if "  demo_" in line]
    assert arrived
    assert lines[-1].endswith(" samples were delivered; nothing is left behind.")
    assert int(lines[-1].split()[0]) >= len(arrived)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_it_ends_in_order_when_told_to(tmp_path: Path, stop: signal.Signals) -> None:
    """Until a signal comes the demo takes pushes at the address that it tells, and shows them arrive."""
    async with command("demo", temporary=tmp_path) as process:
        agent = (await line_with(process, "agent ")).split()[1]
        await line_with(process, "  demo_rows_processed_total{")
        async with aiohttp.ClientSession() as http:
            assert (await http.put(f"{agent}/job/mine", data=b"my_metric 7\n")).status == 200
            assert "my_metric{" in await (await http.get(agent)).text()
        assert (await line_with(process, "  my_metric{")).endswith('my_metric{job="mine"} 7\n')
        process.send_signal(stop)
        rest, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert rest.decode().endswith(" samples were delivered; nothing is left behind.\n")
    assert left_in(tmp_path) == []


async def test_make_demo_ends_calmly(tmp_path: Path) -> None:
    """Ctrl-C in a terminal ends `make demo` with 0 and without a word of make's."""
    make = ("make", "-C", str(ROOT), "-o", ".venv/.installed", f"BIN={Path(sys.executable).parent}", "demo")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IN_A_TERMINAL, *make, stdin=PIPE, stdout=PIPE, env=environment
    )
    assert process.stdin is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            await line_with(process, "  demo_rows_processed_total{")
            process.stdin.write(b"\x03")
            rest = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert "nothing is left behind" in rest
    assert "***" not in rest
    assert left_in(tmp_path) == []


async def test_an_address_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """Where the user wants just that address, the demo says that it is taken, exits 2 and leaves nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        async with command("demo", "--listen-address", address, temporary=tmp_path) as process:
            said, errors = await process.communicate()
    assert (process.returncode, said) == (2, b"")
    told = errors.decode()
    assert told.startswith(f"pushbridge: web.listen_address: cannot listen on {address}: Address already in use")
    assert told.count("\n") == 1
    assert left_in(tmp_path) == []


async def test_it_tells_where_to_look_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any sample the demo names the agent, the receiver's page and a command to try."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    await run_demo(0, said.append)
    agent = said[0].split()[1].removesuffix("/metrics")
    assert said[1].split()[1].startswith("http://127.0.0.1:")
    assert said[2].endswith(f"| curl --data-binary @- {agent}/metrics/job/my_job")
    assert said[-1].endswith(" samples were delivered; nothing is left behind.")
    assert left_in(tmp_path) == []
