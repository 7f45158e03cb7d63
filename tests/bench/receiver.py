"""The cheap receiver: reads every request whole, answers 200, looks at nothing. Its port is the one argument.

It stands for the remote_write target, and alone it shows how fast the load generator can go.
"""

import re
import select
import socket
import sys
from dataclasses import dataclass

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True, eq=False)
class _Client:
    socket: socket.socket
    head: bytes = b""
    """The beginning of a request, up to the blank line."""
    missing_bytes: int = 0
    """What is still to come of a body."""


def serve(port: int) -> None:
    """Serve for ever."""
    listener = socket.create_server(("127.0.0.1", port))
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    clients: dict[int, _Client] = {}
    room = bytearray(1 << 18)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection = listener.accept()[0]
                clients[connection.fileno()] = _Client(connection)
                poll.register(connection, select.EPOLLIN)
            elif not _receive(clients[number], room):
                clients.pop(number).socket.close()


def _receive(client: _Client, room: bytearray) -> bool:
    """Take what came and answer a request that is whole; False at the end of the connection."""
    try:
        size = client.socket.recv_into(room)
        if client.missing_bytes:
            client.missing_bytes -= size
        else:
            client.head += room[:size]
            end = client.head.find(b"\r\n\r\n") + 4
            if end < 4:
                return size > 0
            length = _LENGTH.search(client.head, 0, end - 2)
            client.missing_bytes = (int(length[1]) if length else 0) - (len(client.head) - end)
            client.head = b""
        if not client.missing_bytes:
            client.socket.send(_ANSWER)
    except ConnectionError:
        return False
    return size > 0


if __name__ == "__main__":
    serve(int(sys.argv[1]))
