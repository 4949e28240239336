"""A TCP connection that carries DNS messages, and never waits."""

import select
import socket

from vswitch.protocols import dns

READ_BYTES = 4096


class MessageStream:
    """Takes a socket over, which may still be connecting. While there is something to send nothing is received: who
    takes no answers asks no more."""

    def __init__(self, sock: socket.socket, message_max: int = dns.MESSAGE_MAX) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._framing = dns.Framing(message_max)
        self._out = bytearray()
        self.has_ended = False  # the other side sends no more
        self.fileno = sock.fileno

    @property
    def unsent(self) -> int:
        return len(self._out)

    @property
    def events(self) -> int:
        """What to wait for (poll(2)); what is wrong comes in any case."""
        if self._out:
            return select.POLLOUT
        return 0 if self.has_ended else select.POLLIN

    def serve(self, events: int) -> list[bytes]:
        """What has come. Raises OSError if the connection is lost, and ValueError for nonsense."""
        if events & ~(select.POLLIN | select.POLLOUT):
            raise ConnectionResetError
        self._flush()
        if not events & select.POLLIN:
            return []
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return []
        self.has_ended = not data
        return self._framing.feed(data)

    def send(self, message: bytes) -> None:
        """Raises OSError if the connection is lost."""
        self._out += dns.framed(message)
        self._flush()

    def close(self) -> None:
        self._sock.close()

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            pass
