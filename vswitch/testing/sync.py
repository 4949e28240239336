"""The LAN for tests that are not async: the same without `await`, in a child process.

with SyncLan() as lan:
    a, b = lan.guest("a"), lan.guest("b")
    assert a.run("ping -c1 " + b.ip).ok
    with lan.partition([a], [b]):
        assert not a.run("ping -c1 -W1 " + b.ip).ok
"""

import contextlib
import importlib
import inspect
import os
import queue
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vswitch.testing import pause
from vswitch.testing.conditions import ConditionFailed, failed_within
from vswitch.testing.forks import Forked, Forks
from vswitch.testing.prompt import ask_here, names_of
from vswitch.testing.wire import LENGTH, Function, pack, unpack

END_TIMEOUT_S = 10.0
LAN = 0
STDOUT, STDERR = 1, 2
LOADED = [f"vswitch.testing.{name}" for name in ("evidence", "guest", "host", "lan", "topology")]

_forks: Forks | None = None  # what starts the child processes: the first import takes a second


class Remote:
    """What lives in the child process: a guest, a host, a fault, …, with the attributes and methods it has there."""

    def __init__(self, lan: "SyncLan", number: int, kind: type, shown: str) -> None:
        self._lan = lan
        self._number = number
        self._kind = kind
        self._shown = shown  # its repr when it came
        self._process_of = lan._process

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{self!r} has no attribute {name!r}")
        if not inspect.isfunction(inspect.getattr_static(self._kind, name, None)):
            return self._lan._ask("get", self._still_there(), name)

        def method(*words: Any, **named: Any) -> Any:
            far = self._lan._callable
            words = tuple(map(far, words))
            return self._lan._ask("call", self._still_there(), name, words, {key: far(named[key]) for key in named})

        method.__name__ = name
        method.__doc__ = getattr(self._kind, name).__doc__
        return method

    def __enter__(self) -> Any:
        return self._lan._ask("enter", self._still_there())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lan._ask("leave", self._still_there(), error is not None)

    def __repr__(self) -> str:
        return self._shown

    def _still_there(self) -> int:
        """Its number. Raises RuntimeError if its LAN has ended, and there is a new one."""
        if self._process_of is not self._lan._process:
            raise RuntimeError(f"{self!r} was on a LAN that has ended in an earlier test; see what became of that")
        return self._number


class SyncLan(Remote):
    """A `Lan`, with its methods and attributes; `random` is here, and begun anew by each test.

    `is_own` tells, when something is made, whether the test that runs takes it away when it ends. Calls raise what they
    raise there. When the LAN has ended, because a guest has died, every call raises that, until the next test begins
    with a new one.

    A call that is interrupted, by a signal's handler, is given up there when the next one is made. Since a handler may
    strike anywhere, two threads send and receive whole messages, and an answer tells which call it belongs to.
    """

    _process: Forked | None = None

    def __init__(self, *, seed: str | int = 0, is_own: Callable[[], bool] = lambda: True, **options: Any) -> None:
        from vswitch.testing.lan import NETWORK, Lan

        super().__init__(self, LAN, Lan, f"<SyncLan {options.get('network', NETWORK)}>")
        self.random = random.Random(str(seed))
        self._options = {"seed": seed, **options}
        self._lock = threading.Lock()
        self._functions: list[Any] = []
        self._made: list[tuple[bool, Remote]] = []  # machines and faults, and whether they are a test's own
        self._is_own = is_own
        self._since: int | None = None
        self._calls = 0
        self._unanswered = 0  # the call that is, if any
        self._called_back = 0  # the thread in which a function of the test's is asked something
        self._ended: Exception | None = None
        self._is_told = False  # the test that runs, of a guest that has died

    @classmethod
    def from_file(cls, path: "str | Path", **options: Any) -> Self:
        """As a `Lan`'s."""
        from vswitch.testing import topology

        return cls(topology=topology.read(str(path)), **options)

    def __enter__(self) -> Self:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = self._process_of = _start_child(theirs)
        self._to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_send, args=(self._socket, self._to_send), daemon=True),
            threading.Thread(target=_receive, args=(self._socket, self._heard), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        try:
            self._exchange(self._options)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        with contextlib.suppress(OSError):  # it has hung up before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._to_send.put(None)
        for thread in self._threads:
            thread.join()
        self._socket.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def begin_test(self, seed: str | int) -> None:
        """Frames count from now on. A LAN that has ended is made anew."""
        if self._ended is not None:
            self.__exit__(None, None, None)
            self._made.clear()
            self._ended, self._unanswered = None, 0
            self.__enter__()
        self._is_told = False
        self.random = random.Random(str(seed))
        self._since = self._ask("call", LAN, "begin_test", (), {})
        self._functions.clear()

    def eventually(self, condition: Callable[[], Any], *, within: float = 5.0, every: float = 0.1) -> Any:
        """As a `Lan`'s, asked here: the condition may use the LAN. It is asked once at least."""
        __tracebackhide__ = True
        over_s = time.monotonic() + within
        while True:
            try:
                answer = condition()
                why = f"it answered {answer!r}"
            except AssertionError as error:
                answer, why = None, str(error) or "an assertion failed"
            if answer:
                return answer
            if time.monotonic() > over_s:
                raise ConditionFailed(failed_within(condition, within, why))
            time.sleep(every)

    def pause(self, why: str = pause.WHY) -> None:
        """As a `Lan`'s."""
        greeting = pause.greeting(why, self.how_to_look(), "print(lan.report())")
        with pause.at_terminal():
            ask_here(names_of(self, self.machines), greeting)

    def always(self, *_: Any, **__: Any) -> Any:
        """Not here: nothing can ask while the test is busy."""
        raise RuntimeError("always is for async tests; write this one with the fixture lan, or ask with eventually")

    def end_test(self) -> None:
        """Takes away what the test has made, and mends what it broke. Raises what the LAN has ended of, unless the
        test has been told."""
        if self._ended is not None:
            return
        is_told = self._is_told
        try:
            self._tidy()
        except Exception:
            if self._ended is None or not is_told:
                raise

    def _tidy(self) -> None:
        own = [remote for is_own, remote in self._made if is_own]
        self._made = [made for made in self._made if not made[0]]
        for remote in reversed(own):
            if _is_fault(remote):
                remote.restore()
        self._ask("tidy", [remote._number for _, remote in self._made if not _is_fault(remote)])

    def _ask(self, what: str, number: Any, *words: Any) -> Any:
        if what == "call" and number == LAN:
            words = self._counted(*words)
        answer = self._exchange(what, number, *words)
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

    def _exchange(self, *message: object) -> Any:
        if self._called_back == threading.get_ident():
            raise RuntimeError("a function that the LAN calls cannot call the LAN; it is asked of a packet only")
        with self._lock:
            if self._unanswered:
                self._to_send.put(pack((self._unanswered, "give up"), self._reference))
            self._calls += 1
            self._unanswered = self._calls
            what, value = self._answer(self._calls, message)
            self._unanswered = 0
            if what == "ok":
                return value
            if what == "ended":
                self._ended = value
            self._is_told |= "QEMU ended" in str(value)  # a call may fail of that before the LAN does
            raise value

    def _answer(self, number: int, message: tuple[object, ...]) -> tuple[str, Any]:
        self._to_send.put(pack((number, *message), self._reference))
        while True:
            if (body := self._heard.get()) is None:
                self._heard.put(None)  # for the next call
                assert self._process is not None
                return "ended", RuntimeError(f"the LAN's process has ended with status {self._process.wait()}")
            about, what, value = unpack(body, self._resolve)
            if about != number:  # of one that was given up
                continue
            if what != "ask":
                return what, value
            function, words = value
            self._called_back = threading.get_ident()
            try:
                answer = ("ok", self._functions[function](*words))
            except Exception as error:
                answer = ("error", error)
            finally:
                self._called_back = 0
            self._to_send.put(pack((number, "answer", *answer), self._reference))

    def _reference(self, value: object) -> Any:
        if isinstance(value, Remote):
            return "object", value._still_there(), ""
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
        number, module, name, shown = reference
        if number == LAN:
            return self
        kind = importlib.import_module(module)
        for part in name.split("."):
            kind = getattr(kind, part)
        return Remote(self, number, kind, shown)  # type: ignore[arg-type]


def _start_child(stream: socket.socket) -> Forked:
    """The process that a LAN runs in, which hears of it on its descriptor 3."""
    global _forks
    if _forks is None or not _forks.can_start(os.environ):
        _forks = Forks(LOADED, os.environ)
    return _forks.start(
        "vswitch.testing.child",
        [],
        env=os.environ,
        cwd=Path.cwd(),
        stdout=STDOUT,
        stderr=STDERR,
        pass_fds=[stream.fileno()],
    )


def _send(stream: socket.socket, messages: "queue.SimpleQueue[bytes | None]") -> None:
    with contextlib.suppress(OSError):  # it has hung up
        while (message := messages.get()) is not None:
            stream.sendall(message)


def _receive(stream: socket.socket, messages: "queue.SimpleQueue[bytes | None]") -> None:
    """Whole messages, and None at the end."""
    with contextlib.suppress(OSError), stream.makefile("rb") as file:
        while len(head := file.read(LENGTH.size)) == LENGTH.size:
            messages.put(file.read(*LENGTH.unpack(head)))
    messages.put(None)


def _is_fault(remote: Remote) -> bool:
    return remote._kind.__name__ == "Fault"


def _is_made(remote: Remote) -> bool:
    """Whether it is to be taken away, or mended, when the test ends."""
    return remote._kind.__name__ in ("Guest", "ScapyHost", "Namespace", "Program", "Fault")
