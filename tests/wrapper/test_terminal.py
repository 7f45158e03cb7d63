"""exec on a terminal: the command reads it, Ctrl-C and Ctrl-Z reach it, and the shell has it back afterwards."""

import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox.ports import free_port
from tests.blackbox.servers import needs

WITHIN_S = 20.0
REPOSITORY = Path(__file__).resolve().parents[2]


class Keyboard:
    """A process on a terminal of its own, seen from the other side of it."""

    def __init__(self, *command: str) -> None:
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(REPOSITORY)
            os.execvp(command[0], command)  # noqa: S606 - the process that pty.fork made
        self._seen = b""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._terminal, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Return when the screen shows what matches, from where the last match ended."""
        deadline_s = time.monotonic() + WITHIN_S
        while (found := re.search(pattern.encode(), self._seen, re.DOTALL)) is None:
            ready, _, _ = select.select([self._terminal], [], [], deadline_s - time.monotonic())
            assert ready, f"no {pattern!r} in {self._seen!r}"
            self._seen += os.read(self._terminal, 4096)
        self._seen = self._seen[found.end() :]

    def close(self) -> None:
        """Hang up."""
        os.close(self._terminal)
        os.waitpid(self._process, 0)


@pytest.fixture
def exec_(tmp_path: Path) -> str:
    """The command up to its command, with no agent to report to."""
    return f"{sys.executable} -m bridge exec --job j --url http://127.0.0.1:{free_port()} --spool {tmp_path} --"


@pytest.fixture
def shell() -> Iterator[Keyboard]:
    keyboard = Keyboard("bash", "--norc", "--noprofile", "--noediting", "-i")
    keyboard.type("PS1='$ready> '; ready=is\n")
    keyboard.wait_for("is> ")
    yield keyboard
    keyboard.close()


@needs("sh")
def test_keys_go_to_the_command_and_then_to_the_caller_again(exec_: str) -> None:
    """The command reads the terminal, Ctrl-C ends it alone, and the script that called exec reads on."""
    keyboard = Keyboard("sh", "-c", f"{exec_} cat; echo code=$?; read line; echo got=$line")
    keyboard.type("hello\n")
    keyboard.wait_for("hello\r\nhello\r\n")
    keyboard.type("\x03")
    keyboard.wait_for("code=130")
    keyboard.type("more\n")
    keyboard.wait_for("got=more")
    keyboard.close()


@needs("bash")
def test_stop_and_continue(exec_: str, shell: Keyboard) -> None:
    """Ctrl-Z gives the shell its prompt; fg gives the command the terminal again."""
    shell.type(f"{exec_} cat\n")
    shell.type("one\n")
    shell.wait_for("one\r\none\r\n")
    shell.type("\x1a")
    shell.wait_for(r"Stopped.*is> ")
    shell.type("fg\n")
    shell.wait_for(r"exec [^\n]*\n")
    shell.type("two\n")
    shell.wait_for("two\r\ntwo\r\n")
    shell.type("\x04")
    shell.wait_for("is> ")
    shell.type("echo code=$?\n")
    shell.wait_for("code=0")


@needs("bash")
def test_in_the_background(exec_: str, shell: Keyboard) -> None:
    """A command that wants to read in the background stops as any other, until it is fetched."""
    shell.type(f"{exec_} sh -c 'read x; echo got=$x' &\n")
    shell.wait_for("is> ")
    shell.type("until jobs -l | grep -q topped; do sleep 0.05; done; echo so it is\n")
    shell.wait_for("\nso it is")
    shell.type("fg\n")
    shell.wait_for(r"exec [^\n]*\n")
    shell.type("line\n")
    shell.wait_for("got=line")
    shell.wait_for("is> ")


@needs("bash")
def test_a_shell_in_the_shell(exec_: str, shell: Keyboard) -> None:
    """A command with job control of its own runs, and the outer shell has the terminal back when it is gone."""
    shell.type(f"{exec_} bash --norc --noprofile --noediting -i\n")
    shell.type("PS1='inner$level> '; level=2\n")
    shell.wait_for("inner2> ")
    shell.type("sh -c 'echo begun=$$; exec sleep 60'\n")
    shell.wait_for(r"begun=\d")
    shell.type("\x03")
    shell.wait_for("inner2> ")
    shell.type("exit 4\n")
    shell.wait_for("is> ")
    shell.type("echo code=$?\n")
    shell.wait_for("code=4")
