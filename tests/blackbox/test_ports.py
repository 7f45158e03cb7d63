"""Ports for servers under test: nobody else gets them."""

import socket
import subprocess
import sys
from pathlib import Path

from tests.blackbox.ports import free_port

_REPOSITORY = Path(__file__).resolve().parents[2]
_MANY = 60
_TAKE = f"""import sys
from tests.blackbox.ports import free_port
print(*(free_port() for _ in range({_MANY})), flush=True)
sys.stdin.read()
"""


def test_processes_share_no_port() -> None:
    """Ports that several processes take at the same time, and do not use yet, are all different."""
    line, pipe = [sys.executable, "-c", _TAKE], subprocess.PIPE
    others = [subprocess.Popen(line, stdin=pipe, stdout=pipe, cwd=_REPOSITORY) for _ in range(3)]
    taken = [free_port() for _ in range(_MANY)]
    for other in others:
        assert other.stdout is not None
        taken += map(int, other.stdout.readline().split())
    for other in others:
        other.communicate()
    assert len(taken) == len(set(taken)) == 4 * _MANY


def test_a_port_in_use_is_passed_over() -> None:
    """A port on which somebody listens is not handed out."""
    with socket.create_server(("127.0.0.1", free_port())) as listening:
        assert listening.getsockname()[1] not in {free_port() for _ in range(100)}
