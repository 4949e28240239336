"""Fields of a message, read from its front."""

import socket
from typing import Literal

from vswitch.errors import printable


class Ended(Exception):
    """There are not so many bytes."""


class Fields:
    """Bytes that are taken from the front. What takes more than there are raises Ended."""

    def __init__(self, data: bytes, order: Literal["little", "big"] = "big") -> None:
        self._data, self._at, self._order = data, 0, order

    def __len__(self) -> int:
        return len(self._data) - self._at

    def peek(self, size: int) -> bytes:
        """The next bytes, or those of them that are there."""
        return self._data[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        if size > len(self):
            raise Ended
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), self._order)

    def numbers(self, *sizes: int) -> list[int]:
        return [self.number(size) for size in sizes]

    def mac(self) -> str:
        return self.take(6).hex(":")

    def address(self, size: int) -> str:
        """An IP address of 4 or 16 bytes."""
        return socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, self.take(size))


def readable(text: bytes) -> str:
    """Text of a message, whatever it is, safe to show."""
    return printable(text.decode(errors="backslashreplace"))
