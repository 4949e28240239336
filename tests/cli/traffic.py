"""Two stations that exchange numbered frames through a running switch, whatever else happens to it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.cli.program import COMMAND_TIMEOUT_S, connect
from tests.frames import BROADCAST, frame, mac
from tests.waiting import until

PAUSE_S = 0.001


class Traffic:
    """What has passed: each frame, once and in order, or `error` says what came. `delays_s` has how long each took."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._sender = sender
        self._receiver = receiver
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")
        self.delays_s: list[float] = []
        self.error: str | None = None

    def check(self) -> None:
        """One more frame passes, and none was lost until now."""
        passed = len(self.delays_s)
        while len(self.delays_s) <= passed + 1 and self._thread.is_alive():
            time.sleep(PAUSE_S)
        assert self.error is None, self.error
        assert self._thread.is_alive()

    def _run(self) -> None:
        number = 0
        try:
            while not self._ended.wait(PAUSE_S):
                number += 1
                sent = frame(mac(2), mac(1), payload=number.to_bytes(4))
                begun_s = time.monotonic()
                self._sender.sendall(len(sent).to_bytes(4) + sent)
                while (received := self._receive()) != sent:
                    if received[6:12] == mac(1).to_bytes(6):
                        raise AssertionError(f"{sent!r} was sent, {received!r} came")
                self.delays_s.append(time.monotonic() - begun_s)
        except (OSError, AssertionError) as error:
            self.error = f"after {number} frames: {error!r}"

    def _receive(self) -> bytes:
        return self._read(int.from_bytes(self._read(4)))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._receiver.recv(size - len(data))
            assert more, "the switch has closed the connection"
            data += more
        return data


@contextmanager
def traffic(url: str) -> Iterator[Traffic]:
    """Traffic between two guests of a listener, until the block ends or the switch does."""
    with ExitStack() as stack:
        sender, receiver = (stack.enter_context(connect(url)) for _ in range(2))
        _meet(sender, receiver)
        found = Traffic(sender, receiver)
        found._thread.start()
        stack.callback(found._thread.join)
        stack.callback(found._ended.set)
        yield found


def _meet(sender: socket.socket, receiver: socket.socket) -> None:
    """Both are plugged in, and the switch knows where, when the one hears the other."""
    hello = frame(BROADCAST, mac(2))
    sender.setblocking(False)

    def has_come() -> bool:
        receiver.sendall(len(hello).to_bytes(4) + hello)
        try:
            return bool(sender.recv(1 << 20))
        except BlockingIOError:
            return False

    until(has_come, "the two stations to meet")
    sender.setblocking(True)
    sender.settimeout(COMMAND_TIMEOUT_S)
