"""Hands out TCP ports that no other test takes, though nobody listens on them yet.

A port that the kernel names for a moment is free for anybody again before the server that is to have it has started:
for a test in another process, or for an outgoing connection. So ports come from blocks below those of outgoing
connections, and a block belongs to the process that holds its first port. Servers do not belong here.
"""

import itertools
import os
import random
import socket
from collections.abc import Iterator

import pytest

_BLOCK = 100
_FIRST, _END = 10_000, 32_000
_held: dict[int, tuple[socket.socket, Iterator[int]]] = {}
"""The guard of a process' block and the block's ports in turn, by process: a fork has to take a block of its own."""


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on, and that no other process gets from here."""
    process = os.getpid()
    if process not in _held:
        _held[process] = _take_block()
    _, turn = _held[process]
    for port in itertools.islice(turn, _BLOCK):
        if (guard := _bound(port)) is not None:
            guard.close()
            return port
    pytest.fail(f"all {_BLOCK - 1} ports of this process' block are in use")


def _take_block() -> tuple[socket.socket, Iterator[int]]:
    blocks = range(_FIRST, _END, _BLOCK)
    for first in random.sample(blocks, len(blocks)):
        if (guard := _bound(first)) is not None:
            guard.listen()
            return guard, itertools.cycle(range(first + 1, first + _BLOCK))
    pytest.fail(f"every block of {_BLOCK} ports from {_FIRST} to {_END} is held by somebody")


def _bound(port: int) -> socket.socket | None:
    sock = socket.socket()
    # As servers do: what is left of connections that have ended is not in the way.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        return None
    return sock
