"""A network between an agent and its receiver that can be cut and healed. What travels through it is not looked at."""

import socket
import threading
from contextlib import suppress
from typing import Self

_CHUNK_BYTES = 1 << 16


class Network:
    """Passes TCP connections on to a loopback port.

    Cut, it loses whatever is sent and answers nothing, as a network does that drops packets; new connections are
    taken and lead nowhere. Healed, it ends every connection from before, so that nothing lost then comes later.
    """

    def __init__(self, to_port: int) -> None:
        """Listen on a port of its own; use it in a `with` block."""
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_cut = False
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()

    def cut(self) -> None:
        """Lose everything from now on."""
        self._is_cut = True

    def heal(self) -> None:
        """Pass new connections on again."""
        self._end_all()
        self._is_cut = False

    def _end_all(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to_port))
                with self._lock:
                    self._ends |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                if not self._is_cut:
                    sink.sendall(data)
            if not self._is_cut:
                sink.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        """Begin to listen."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_all()
