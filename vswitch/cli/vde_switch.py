"""`vde_switch`: this switch, with the command line, the console and the manners of vde_switch 2.3.2.

It has one vde:// endpoint, forwards what vde_switch forwards, frames included that a bridge keeps to itself, and has a
control socket, named after its directory, for `vswitch status` and the like. Commands come from standard input (with a
prompt only if that is a terminal, and on that terminal, wherever the replies go), from the management socket, and at
the start from an rc file. When standard input ends, so does the switch, unless it is a daemon.

Exit codes are those of `vswitch`: 0 done; 1 the system or the moment refuses; 2 something is written wrongly. What
vde_switch survives, a line of the rc file that fails for one, is said in the log and stops nothing.
"""

import errno
import hashlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import NamedTuple

import trio

from vswitch.cli import daemon, process, vde_options
from vswitch.cli.output import complain, give_up, in_background, say
from vswitch.control import runtime
from vswitch.control.config import TABLE_SIZE_DEFAULT
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.endpoints.vde.console import PROMPT, VDE_VERSION, Console
from vswitch.endpoints.vde.endpoint import VdeSwitch
from vswitch.endpoints.vde.mgmt import RECEIVE_BYTES, Lines
from vswitch.errors import InputError, RefusedError, VSwitchError, only, path_advice, printable
from vswitch.switch import VSwitch
from vswitch.version import __version__

ROOTS_DIRECTORY = "/var/run/vde.ctl"
USERS_DIRECTORY = "/tmp/vde.ctl"
RC_FILES = ("~/.vde2/vde_switch.rc", "/etc/vde2/vde_switch.rc")  # the first that can be read
URL_PARAMETERS = ("mode", "dirmode", "group", "mgmtmode", "mgmtgroup")
AS_VDE_SWITCH = {"reserved": "forward", "sources": "any"}
MAC = r"[0-9A-Fa-f]{1,2}([:.])[0-9A-Fa-f]{1,2}(?:\1[0-9A-Fa-f]{1,2}){4}"
RC_BYTES_MAX = 2**20
NAME_MAX = 48  # characters of the directory's name in the switch's
STDIN, STDOUT = 0, 1

log = logging.getLogger("vswitch")


class Plan(NamedTuple):
    """What the command line asks for. Paths are absolute."""

    switch: VSwitch
    endpoints: list[EndpointConfig]  # the first is the vde:// one
    commands: list[tuple[str, bytes]]  # to begin with: where each is from, and its line
    remarks: list[str]  # for the log
    pid_file: str | None
    daemon: bool
    stdin: bool


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    try:
        given = vde_options.read(arguments)
        if "help" in given:
            say(vde_options.usage())
        elif "version" in given:
            say(f"VDE {VDE_VERSION} (vswitch {__version__})")
        else:
            plan = _plan(given)
            _open_standard_files()
            if plan.daemon:
                daemon.detach(partial(_run, plan))
            else:
                _run(plan, lambda: None)
    except VSwitchError as error:
        complain(f"vde_switch: {error}")
        return error.exit_code
    except BrokenPipeError:  # nobody reads --help
        give_up()
        return 1
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        complain(f"vde_switch: {error.strerror}; raise the limit of open files (ulimit -n)")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _plan(given: vde_options.Given) -> Plan:
    """What options mean. Raises InputError."""
    last = {name: values[-1] for name, values in given.items()}
    directory = last.get("sock") or (USERS_DIRECTORY if os.geteuid() else ROOTS_DIRECTORY)
    policy = AS_VDE_SWITCH | ({"pad": "yes"} if "pad" in last else {})
    parameters = policy | {name: last[name] for name in URL_PARAMETERS if name in last}
    if "numports" in last:
        parameters["limit"] = str(_number("numports", last["numports"]))
    if "mgmt" in last:
        parameters["mgmt"] = os.path.abspath(last["mgmt"])
    path = os.path.abspath(directory)
    config = parse("vde://" + path.replace("%", "%25").replace("?", "%3F"), parameters)
    table_size = max(_number("hashsize", last.get("hashsize", "0")), TABLE_SIZE_DEFAULT)
    if "macaddr" in last and not re.fullmatch(MAC, last["macaddr"]):
        raise InputError(f"--macaddr: {last['macaddr']!r} is not a MAC address; write it like 52:54:00:12:34:56")
    remarks = vde_options.ignored(given)
    return Plan(
        switch=VSwitch(_name(path), hub="hub" in last, table_size=table_size),
        endpoints=[config, *(_tap(name, policy) for names in given.get("tap", []) for name in names.split(","))],
        commands=_rc_commands(last.get("rcfile"), remarks),
        remarks=remarks,
        pid_file=os.path.abspath(last["pidfile"]) if "pidfile" in last else None,
        daemon="daemon" in last,
        stdin="daemon" not in last and "nostdin" not in last,
    )


def _name(directory: str) -> str:
    """The name of a switch with a directory: the same each time, and no other's."""
    readable = re.sub("[^A-Za-z0-9_.-]", "-", os.path.basename(directory).removesuffix(".ctl")[:NAME_MAX])
    return f"vde-{readable}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:6]}"


def _rc_commands(path: str | None, remarks: list[str]) -> list[tuple[str, bytes]]:
    """The lines of the rc file, and where they are; a remark if it cannot be read. Raises InputError."""
    if path is None:
        candidates = (os.path.expanduser(candidate) for candidate in RC_FILES)
        path = next((candidate for candidate in candidates if os.access(candidate, os.R_OK)), os.devnull)
    try:
        with open(path, "rb") as file:
            content = file.read(RC_BYTES_MAX + 1)
    except OSError as error:
        remarks.append(f"--rcfile {path}: {error.strerror}; going on without")
        return []
    if len(content) > RC_BYTES_MAX:
        raise InputError(f"--rcfile {path}: is longer than {RC_BYTES_MAX} bytes")
    return [(f"{path}, line {number}", line) for number, line in enumerate(content.split(b"\n"), 1)]


def _number(name: str, text: str) -> int:
    """A number as C writes it: 16, 0x10 or 020. Raises InputError."""
    digits = re.fullmatch("[+]?(?:0[xX]([0-9a-fA-F]{1,7})|0([0-7]{1,10})|([0-9]{1,9}))", text)
    if digits is None:
        raise InputError(f"--{name}: {text!r} is not a number")
    hexadecimal, octal, decimal = digits.groups()
    return int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)


def _tap(name: str, policy: dict[str, str]) -> EndpointConfig:
    if not re.fullmatch("[A-Za-z0-9_.:-]{1,15}", name):
        raise InputError(f"--tap: {name!r} cannot be an interface's name")
    try:
        return parse(f"tap://{name}", policy)
    except InputError as error:
        raise InputError(f"--tap: {error}") from None


def _run(plan: Plan, ready: Callable[[], None]) -> None:
    """The switch's life. Raises InputError and RefusedError, if anything."""
    if plan.daemon:  # vde_switch, too, lets a daemon go on when its terminal has ended
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        logging.basicConfig(handlers=[daemon.SystemLog()], format="%(message)s", level=logging.INFO)
    process.prepare()
    try:
        with nullcontext() if plan.daemon else in_background("vde_switch: %(message)s"):
            process.run(_serve, plan, ready)
    except BaseExceptionGroup as group:
        raise only(group) from None


async def _serve(plan: Plan, ready: Callable[[], None]) -> None:
    async with plan.switch as switch, trio.open_nursery() as nursery:
        for remark in plan.remarks:
            log.warning("%s", remark)
        vde = (await switch.attach(plan.endpoints[0])).endpoint
        assert isinstance(vde, VdeSwitch)
        vde.vlans = vde.vlans._replace(alone=True)
        for endpoint in plan.endpoints[1:]:
            vde.adopt((await switch.attach(endpoint)).name, f"tuntap {endpoint.path}")
        await _serve_control(switch)
        console = Console(vde)
        nursery.start_soon(_stop_when_told, switch, nursery.cancel_scope)
        await _begin(console, plan.commands)
        with _pid_file(plan.pid_file):
            ready()
            if not plan.stdin:
                await trio.sleep_forever()
            await _converse(console)
            log.info("end of standard input: stopping")
            nursery.cancel_scope.cancel()


async def _serve_control(switch: VSwitch) -> None:
    """Let `vswitch` commands ask the switch, if that can be had."""
    try:
        await switch.serve_control(runtime.socket_path(f"{switch.name}.ctl"))
    except (InputError, RefusedError) as error:
        log.warning("no control socket, so that `vswitch status` cannot find this switch: %s", error)


async def _stop_when_told(switch: VSwitch, scope: trio.CancelScope) -> None:
    await switch.told_to_stop()
    log.info("shutdown: stopping")
    scope.cancel()


async def _begin(console: Console, commands: list[tuple[str, bytes]]) -> None:
    """Run the commands of an rc file; those that fail are said in the log."""
    for place, line in commands:
        reply = b""  # its last portion is the one with the code
        await console.prepare(line)
        for portion in console.answer(line):
            reply = portion
            await trio.lowlevel.checkpoint()
        if reply and not reply.startswith(b"1000 "):
            command = printable(line.decode(errors="backslashreplace").strip())
            log.warning("%s: %s: %s", place, command, reply[5:].decode().strip())


@contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    """The process's number in a file, which is removed if it still has it in the end. Raises RefusedError."""
    if path is None:
        yield
        return
    content = f"{os.getpid()}\n"
    try:
        with open(path, "w") as file:
            file.write(content)
    except OSError as error:
        raise RefusedError(f"--pidfile {path}: {error.strerror}{path_advice(error)}") from None
    try:
        yield
    finally:
        with suppress(OSError), open(path) as file:
            if file.read(len(content) + 1) == content:
                os.unlink(path)


async def _converse(console: Console) -> None:
    """Run the commands from standard input, until its end."""
    lines = Lines()
    terminal = os.isatty(STDIN)
    data = b" "
    while data:
        data = await _read()
        for line in lines.cut(data):
            await console.prepare(line)
            for portion in console.answer(line):
                await _write(STDOUT, portion)
            if terminal and not console.ended:
                await _write(STDIN, PROMPT)


async def _read() -> bytes:
    """What comes from standard input, whatever it is; b"" at its end."""
    with suppress(OSError):  # a file, which there is always something to read from
        await trio.lowlevel.wait_readable(STDIN)
    try:
        return await trio.to_thread.run_sync(os.read, STDIN, RECEIVE_BYTES, abandon_on_cancel=True)
    except BlockingIOError:
        return await _read()
    except OSError:
        return b""  # a terminal that was closed


async def _write(fd: int, data: bytes) -> None:
    """Write all of it, if it can be written; nothing but the console waits for whoever reads it."""

    while data:
        try:
            data = data[await trio.to_thread.run_sync(os.write, fd, data, abandon_on_cancel=True) :]
        except OSError:
            return  # nobody reads it
    await trio.lowlevel.checkpoint()


def _open_standard_files() -> None:
    """Who starts us may have closed some, whose numbers nothing else must get."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= daemon.STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)


if __name__ == "__main__":
    main()
