"""A prompt for Python, in which a LAN goes on and `await` is allowed."""

import ast
import code
import inspect
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import trio

from vswitch.errors import printable
from vswitch.testing import terminal
from vswitch.testing.shell import Result

PROMPT, MORE = "lan> ", "...> "
TYPED = "<console>"  # where code has come from that was typed

Code = Callable[[], Any]


class Prompt(code.InteractiveConsole):
    """`run` is given what was typed, as a function, and answers the values that it has to show.

    With `enter_ends`, a line with nothing in it is the end, as Ctrl-D and exit() always are. `end` is a descriptor that
    can be read when nobody is to be asked any more. `submitted` is called when a line has come.
    """

    def __init__(
        self,
        names: Mapping[str, Any],
        run: Callable[[Code], Iterable[object]],
        end: int,
        *,
        enter_ends: bool,
        submitted: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__({**names, "exit": self._leave, "quit": self._leave})
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._run = run
        self._end = end
        self._enter_ends = enter_ends
        self._submitted = submitted
        self._is_over = False

    def read(self, greeting: str) -> None:
        with suppress(ImportError):
            import readline  # noqa: F401 (lines can be edited)
        with _set(sys, "ps1", PROMPT), _set(sys, "ps2", MORE):
            self.interact(greeting, exitmsg="")

    def raw_input(self, prompt: str = "") -> str:
        if self._is_over or not terminal.wait_for_key(prompt, self._end):
            raise EOFError
        line = super().raw_input(prompt)
        self._submitted()
        if self._enter_ends and prompt == PROMPT and not line.strip():
            raise EOFError
        return line

    def write(self, data: str) -> None:
        """Here and now, and before the next prompt, whatever has become of standard error."""
        out = sys.__stdout__
        if out is not None:
            shown = "\n".join(map(printable, data.expandtabs().split("\n")))  # a guest may have said it
            out.write(shown.encode(out.encoding, "backslashreplace").decode(out.encoding))
            out.flush()

    def runcode(self, code: types.CodeType) -> None:
        try:
            for value in self._run(types.FunctionType(code, self.locals)):
                self.show(value)
        except (trio.Cancelled, trio.RunFinishedError):
            raise
        except SystemExit:
            self._leave()
        except KeyboardInterrupt:
            self.write("KeyboardInterrupt\n")
        except (Exception, BaseExceptionGroup) as error:
            if type(error).__module__.startswith("vswitch."):
                self.write(f"{type(error).__name__}: {error}\n")
            else:
                self.write("".join(traceback.format_exception(error.with_traceback(_typed(error.__traceback__)))))

    def show(self, value: object) -> None:
        """A command's result as what the command has printed, a text as it is, all else as Python shows it."""
        self.locals["_"] = value
        if isinstance(value, Result):
            printed = f"{value.stdout}{value.stderr}"
            ended = "\n" if printed and not printed.endswith("\n") else ""
            self.write(f"{printed}{ended}" if value.ok else f"{printed}{ended}status {value.status}\n")
        elif value is not None:
            self.write(f"{value if isinstance(value, str) else repr(value)}\n")

    def _leave(self, *_: object) -> None:
        """What exit() and quit() are: Python's own close standard input."""
        self._is_over = True


def ask_here(names: Mapping[str, Any], greeting: str) -> None:
    """Asks until Enter, where nothing is to be awaited; at once back if nobody is there."""

    def run(function: Code) -> Iterable[object]:
        shown: list[object] = []
        with _set(sys, "displayhook", shown.append):
            function()
        return shown

    if not terminal.is_attended():
        return
    end, unused = os.pipe()
    try:
        with terminal.kept():
            Prompt(names, run, end, enter_ends=True).read(greeting)
    finally:
        os.close(end)
        os.close(unused)


async def ask(names: Mapping[str, Any], greeting: str, *, enter_ends: bool) -> None:
    """Asks in a thread, and runs what is typed here. Returns when the person is done, at once if nobody is there.

    Ctrl-C ends what runs.
    """
    if not terminal.is_attended():
        return
    running = trio.CancelScope()

    async def execute(function: Code) -> Iterable[object]:
        shown: Iterable[object] = []
        with running:
            shown = await _run_in_trio(function)
        if running.cancelled_caught:
            raise KeyboardInterrupt
        return shown

    def submitted() -> None:
        nonlocal running
        running = trio.CancelScope()  # which Ctrl-C cancels even before it is entered

    end, over = os.pipe()

    def read() -> None:
        def run(function: Code) -> Iterable[object]:
            return trio.from_thread.run(execute, function)

        try:
            with suppress(trio.Cancelled, trio.RunFinishedError):
                Prompt(names, run, end, enter_ends=enter_ends, submitted=submitted).read(greeting)
        finally:
            os.close(end)

    try:
        with terminal.kept(), _interrupts(lambda: running.cancel()):
            await trio.to_thread.run_sync(read, abandon_on_cancel=True)
    finally:
        os.close(over)  # the thread, if it waits for a person still, ends


async def _run_in_trio(function: Code) -> Iterable[object]:
    """What was typed, and then what it has answered without an `await`."""
    shown: list[object] = []
    with _set(sys, "displayhook", shown.append):
        answer = function()
        if inspect.iscoroutine(answer):
            await answer
    return [await value if inspect.isawaitable(value) else value for value in shown]


@contextmanager
def _interrupts(cancel: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C interrupts code that was typed and holds trio up, or else calls `cancel` in trio."""
    token = trio.lowlevel.current_trio_token()

    def strike(number: int, frame: types.FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename == TYPED:
                raise KeyboardInterrupt
            if frame.f_globals.get("__name__", "").partition(".")[0] == "trio":
                break
            frame = frame.f_back
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(cancel)

    before = signal.signal(signal.SIGINT, strike)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _typed(at: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback from what was typed on."""
    while at is not None and at.tb_frame.f_code.co_filename != TYPED:
        at = at.tb_next
    return at


@contextmanager
def _set(thing: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(thing, name, None)
    setattr(thing, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(thing, name)
        else:
            setattr(thing, name, before)


def names_of(lan: Any, machines: Mapping[str, Any]) -> dict[str, Any]:
    """What can be named at the prompt: the LAN, and each machine whose name is one of Python's."""
    return {"lan": lan, **{key: machine for key, machine in machines.items() if key.isidentifier()}}
