"""The LAN for tests that are not async: the same without `await`, in a child process.

with SyncLan() as lan:
    a, b = lan.guest("a"), lan.guest("b")
    assert a.run("ping -c1 " + b.ip).ok
    with lan.partition([a], [b]):
        assert not a.run("ping -c1 -W1 " + b.ip).ok
"""

import importlib
import inspect
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from vswitch.testing.wire import LENGTH, Function, pack, unpack

END_TIMEOUT_S = 10.0
LAN = 0


class Remote:
    """What lives in the child process: a guest, a host, a fault, …, with the attributes and methods it has there."""

    def __init__(self, lan: "SyncLan", number: int, kind: type) -> None:
        self._lan = lan
        self._number = number
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{self!r} has no attribute {name!r}")
        if not inspect.isfunction(inspect.getattr_static(self._kind, name, None)):
            return self._lan._ask("get", self._number, name)

        def method(*words: Any, **named: Any) -> Any:
            far = self._lan._callable
            words = tuple(map(far, words))
            return self._lan._ask("call", self._number, name, words, {key: far(named[key]) for key in named})

        method.__name__ = name
        method.__doc__ = getattr(self._kind, name).__doc__
        return method

    def __enter__(self) -> Any:
        return self._lan._ask("enter", self._number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lan._ask("leave", self._number)

    def __repr__(self) -> str:
        return f"<{self._kind.__name__} {self._number} of a SyncLan>"


class SyncLan(Remote):
    """A `Lan`, with its methods and attributes; `random` is here, and begun anew by each test.

    `is_own` tells, when something is made, whether the test that runs takes it away when it ends. Calls raise what they
    raise there. When the LAN has ended, because a guest has died, every call raises that.
    """

    def __init__(self, *, seed: str | int = 0, is_own: Callable[[], bool] = lambda: True, **options: Any) -> None:
        from vswitch.testing.lan import Lan

        super().__init__(self, LAN, Lan)
        self.random = random.Random(str(seed))
        self._options = {"seed": seed, **options}
        self._lock = threading.Lock()
        self._functions: list[Any] = []
        self._made: list[tuple[bool, Remote]] = []  # machines and faults, and whether they are a test's own
        self._is_own = is_own
        self._since: int | None = None
        self._buffer = b""
        self._interrupted = False

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vswitch.testing.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        self._socket = ours
        self._exchange(self._options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def begin_test(self, seed: str | int) -> None:
        """Frames count from now on."""
        self.random = random.Random(str(seed))
        self._since = self._ask("call", LAN, "now", (), {})
        self._functions.clear()

    def end_test(self) -> None:
        """Takes away what the test has made, and mends what it broke. Raises what the LAN has ended of."""
        own = [remote for is_own, remote in self._made if is_own]
        self._made = [made for made in self._made if not made[0]]
        for remote in reversed(own):
            if hasattr(remote._kind, "restore"):
                remote.restore()
            else:
                self._ask("call", LAN, "remove", (remote,), {})
        self._ask("get", LAN, "seed")

    def _ask(self, what: str, number: int, *words: Any) -> Any:
        if what == "call" and number == LAN:
            words = self._counted(*words)
        answer = self._exchange((what, number, *words))
        found = answer if isinstance(answer, tuple) else (answer,)
        if what == "call":
            self._made += [(self._is_own(), one) for one in found if isinstance(one, Remote) and _is_made(one)]
            if number == LAN and words[0] == "remove":
                self._made = [made for made in self._made if made[1]._number != words[1][0]._number]
        return answer

    def _counted(self, name: str, words: Any, named: Any) -> tuple[str, Any, Any]:
        """Frames since the test began count, where it does not say otherwise."""
        if name in ("expect", "expect_none", "save") and self._since is not None:
            named = {"since": self._since, **named}
        return name, words, named

    def _exchange(self, message: object) -> Any:
        with self._lock:
            if self._interrupted:
                raise RuntimeError(
                    "a call of this LAN was interrupted, and its answer may still come; make another LAN"
                )
            self._interrupted = True
            what, value = self._answer(message)
            self._interrupted = False
            if what == "error":
                raise value
            return value

    def _answer(self, message: object) -> tuple[str, Any]:
        self._socket.sendall(pack(message, self._reference))
        while True:
            what, value = self._receive()
            if what != "ask":
                return what, value
            number, words = value
            try:
                answer = ("ok", self._functions[number](*words))
            except Exception as error:
                answer = ("error", error)
            self._socket.sendall(pack(answer, self._reference))

    def _receive(self) -> Any:
        (size,) = LENGTH.unpack(self._read(LENGTH.size))
        return unpack(self._read(size), self._resolve)

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._socket.recv(1 << 20)
            if not data:
                raise RuntimeError(f"the LAN's process has ended with status {self._process.wait()}")
            self._buffer += data
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _reference(self, value: object) -> Any:
        if isinstance(value, Remote):
            return "object", value._number, ""
        if isinstance(value, Function):
            return "function", value.number, value.name
        return None

    def _callable(self, value: object) -> object:
        """What stands for a function among arguments."""
        if not inspect.isroutine(value):
            return value
        self._functions.append(value)
        return Function(len(self._functions) - 1, value.__name__)

    def _resolve(self, reference: Any) -> Any:
        number, module, name = reference
        if number == LAN:
            return self
        kind = importlib.import_module(module)
        for part in name.split("."):
            kind = getattr(kind, part)
        return Remote(self, number, kind)  # type: ignore[arg-type]


def _is_made(remote: Remote) -> bool:
    """Whether it is to be taken away, or mended, when the test ends."""
    return remote._kind.__name__ in ("Guest", "ScapyHost", "Fault")
