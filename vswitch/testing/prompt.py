"""A prompt for Python, in which a LAN goes on and `await` is allowed."""

import ast
import code
import inspect
import signal
import sys
import termios
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trio

from vswitch.errors import printable
from vswitch.testing.shell import Result

PROMPT, MORE = "lan> ", "...> "

Code = Callable[[], Any]


class Prompt(code.InteractiveConsole):
    """`run` is given what was typed, as a function, and answers the values that it has to show.

    With `enter_ends`, a line with nothing in it is the end, as Ctrl-D always is. `submitted` is called when a line has
    come.
    """

    def __init__(
        self,
        names: dict[str, Any],
        run: Callable[[Code], Iterable[object]],
        *,
        enter_ends: bool,
        submitted: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._run = run
        self._enter_ends = enter_ends
        self._submitted = submitted

    def read(self, greeting: str) -> None:
        with suppress(ImportError):
            import readline  # noqa: F401 (lines can be edited)
        with _set(sys, "ps1", PROMPT), _set(sys, "ps2", MORE):
            self.interact(greeting, exitmsg="")

    def raw_input(self, prompt: str = "") -> str:
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
        except (SystemExit, trio.Cancelled, trio.RunFinishedError):
            raise
        except KeyboardInterrupt:
            self.write("KeyboardInterrupt\n")
        except Exception as error:
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


def _typed(at: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback from what was typed on."""
    while at is not None and at.tb_frame.f_code.co_filename != "<console>":
        at = at.tb_next
    return at


def run_here(function: Code) -> Iterable[object]:
    """What was typed, where nothing is to be awaited."""
    shown: list[object] = []
    with _set(sys, "displayhook", shown.append):
        function()
    return shown


async def _run_in_trio(function: Code) -> Iterable[object]:
    """What was typed, and then what it has answered without an `await`."""
    shown: list[object] = []
    with _set(sys, "displayhook", shown.append):
        answer = function()
        if inspect.iscoroutine(answer):
            await answer
    return [await value if inspect.isawaitable(value) else value for value in shown]


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


async def ask(names: dict[str, Any], greeting: str, *, enter_ends: bool) -> None:
    """Reads at the terminal in a thread, and runs what is typed here. Returns when the user is done.

    Ctrl-C ends what runs.
    """
    running = trio.CancelScope()

    async def execute(function: Code) -> Iterable[object]:
        nonlocal running
        shown: Iterable[object] = []
        with running:
            shown = await _run_in_trio(function)
        if running.cancelled_caught:
            raise KeyboardInterrupt
        return shown

    def submitted() -> None:
        nonlocal running
        running = trio.CancelScope()  # which Ctrl-C cancels even before it is entered

    async def interrupt(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT) as interrupts:
            task_status.started()
            async for _ in interrupts:
                running.cancel()

    def read() -> None:
        with suppress(trio.Cancelled, trio.RunFinishedError):
            run = lambda code: trio.from_thread.run(execute, code)  # noqa: E731
            Prompt(names, run, enter_ends=enter_ends, submitted=submitted).read(greeting)

    with terminal_kept():
        async with trio.open_nursery() as nursery:
            await nursery.start(interrupt)
            await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()


@contextmanager
def terminal_kept() -> Iterator[None]:
    """Leaves the terminal as it was, also where a thread that reads lines is left behind."""
    try:
        before = termios.tcgetattr(0)
    except (termios.error, ValueError):
        yield
        return
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(0, termios.TCSANOW, before)


def names_of(lan: Any, machines: Any, name: str = "lan") -> dict[str, Any]:
    """What can be named at the prompt: the LAN, and each machine whose name is one of Python's."""
    return {name: lan, **{key: machine for key, machine in machines.items() if key.isidentifier()}}
