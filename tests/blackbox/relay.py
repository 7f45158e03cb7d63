"""A TCP relay between a client and an agent that drops connections at the worst moments, as networks do.

It knows just enough HTTP to tell where a request and an answer end. Expectations do not belong here.
"""

import random
import socket
import threading
from contextlib import suppress
from typing import Literal, Self

_READ_BYTES = 1 << 16
Cut = Literal["in the request", "before the answer", "in the answer"]
CUTS: tuple[Cut, ...] = ("in the request", "before the answer", "in the answer")


def read_message(connection: socket.socket, data: bytes = b"") -> bytes:
    """Read one request or answer with a Content-Length; ConnectionError when it breaks off."""
    while b"\r\n\r\n" not in data:
        data += _read(connection)
    head, _, _ = data.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    size = len(head) + 4 + (lengths[0] if lengths else 0)
    while len(data) < size:
        data += _read(connection)
    return data


def _read(connection: socket.socket) -> bytes:
    data = connection.recv(_READ_BYTES)
    if not data:
        raise ConnectionResetError
    return data


class Relay:
    """Passes requests on to a port and answers back, but for a share of them."""

    def __init__(self, to_port: int, share: float, seed: int) -> None:
        """Cut the connection at a `share` of the requests; each connection has its own random numbers."""
        self._to_port = to_port
        self._share = share
        self._seed = seed
        self.cuts: dict[Cut, int] = dict.fromkeys(CUTS, 0)
        """How often each was done."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            number = len(self._threads)
            thread = threading.Thread(target=self._serve, args=(connection, random.Random(self._seed + number)))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, chance: random.Random) -> None:
        # Whoever leaves ends it: a client that was cut off, an agent that was killed, the test.
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._to_port)) as agent:
            while self._exchange(client, agent, chance):
                pass

    def _exchange(self, client: socket.socket, agent: socket.socket, chance: random.Random) -> bool:
        """Pass one request and its answer; False when the connection was cut."""
        request = read_message(client)
        cut = chance.choice(CUTS) if chance.random() < self._share else None
        if cut is not None:
            self.cuts[cut] += 1
        if cut == "in the request":
            agent.sendall(request[: chance.randrange(len(request))])
            return False
        agent.sendall(request)
        answer = read_message(agent)
        if cut == "in the answer":
            client.sendall(answer[: chance.randrange(len(answer))])
        elif cut is None:
            client.sendall(answer)
        return cut is None

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Accept no more; connections end when their clients leave."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
