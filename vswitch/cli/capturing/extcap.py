"""`vswitch extcap`: running switches and their ports in Wireshark's own list of interfaces.

Wireshark runs every program in its extcap directories, extcap(4): to list the interfaces it has, to say what can be
set for one, to check a capture filter, and to capture from one into a FIFO. `--install` puts one there that is this
command. What goes to standard error Wireshark shows as an error, whatever the exit code; so a good end is silent.

Wireshark (4.0) waits for its FIFO for ever if the program ends without having opened it: whatever can go wrong with a
capture, opening the FIFO comes first.
"""

import os
import select
import shlex
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import click

from vswitch.cli.capturing.capture import ending
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.capture_requests import SNAPLEN_MAX, CaptureRequest
from vswitch.edges.packet_filter import PacketFilter
from vswitch.errors import InputError, RefusedError, VSwitchError
from vswitch.version import __version__

# An interface is vswitch:SWITCH or vswitch:SWITCH+PORT. No name has a + in it, and Wireshark's lists, preferences and
# file names take it, and sort by it.
SCHEME, BETWEEN = "vswitch:", "+"
DLTS = "dlt {number=1}{name=EN10MB}{display=Ethernet}"
CONFIG = f"""\
arg {{number=0}}{{call=--drops}}{{display=Only frames that were dropped}}{{type=boolflag}}{{default=false}}\
{{tooltip=The packet comment says why}}
arg {{number=1}}{{call=--lossless}}{{display=Lossless}}{{type=boolflag}}{{default=false}}\
{{tooltip=Have forwarding wait rather than miss a frame}}
arg {{number=2}}{{call=--snaplen}}{{display=Bytes of each frame}}{{type=unsigned}}{{default={SNAPLEN_MAX}}}\
{{range=1,{SNAPLEN_MAX}}}"""

PROGRAM = "vswitch"  # the file's name
MARK = "# Written by vswitch extcap --install; vswitch extcap --uninstall removes it."
OPEN_TIMEOUT_S = 60


@click.command()
@click.option("--install", "action", flag_value="install", help="Have Wireshark and tshark list switches and ports.")
@click.option("--uninstall", "action", flag_value="uninstall", help="Have them list none any more.")
@click.option("--extcap-interfaces", "action", flag_value="interfaces", hidden=True)
@click.option("--extcap-dlts", "action", flag_value="dlts", hidden=True)
@click.option("--extcap-config", "action", flag_value="config", hidden=True)
@click.option("--capture", "action", flag_value="capture", hidden=True)
@click.option("--extcap-version", hidden=True)
@click.option("--extcap-interface", "interface", default="", hidden=True)
@click.option("--extcap-capture-filter", "expression", default="", hidden=True)
@click.option("--fifo", default="", hidden=True)
@click.option("--drops", is_flag=True, hidden=True)
@click.option("--lossless", is_flag=True, hidden=True)
@click.option("--snaplen", default=str(SNAPLEN_MAX), hidden=True)  # a wrong one has to wait until the FIFO is open
def extcap(
    action: str | None,
    extcap_version: str | None,
    interface: str,
    expression: str,
    fifo: str,
    drops: bool,
    lossless: bool,
    snaplen: str,
) -> None:
    """List switches and their ports as Wireshark's interfaces."""
    match action:
        case "install":
            _install()
        case "uninstall":
            _uninstall()
        case "interfaces":
            _list_interfaces()
        case "dlts":
            say(DLTS)
        case "config":
            say(CONFIG)
        case "capture":
            fields = {"filter": expression, "snaplen": snaplen, "drops": str(drops), "lossless": str(lossless)}
            _capture(interface, fifo, fields)
        case _ if interface:
            _check_filter(expression)
        case _:
            raise InputError("say --install or --uninstall; all else is between Wireshark and this command")


def _list_interfaces() -> None:
    say(f"extcap {{version={__version__}}}")
    for switch, path in client.by_name().items():
        say(f"interface {{value={SCHEME}{switch}}}{{display=vswitch {switch}: all ports}}")
        with suppress(RefusedError):  # one that has just ended, or is of another version
            for port in client.call(path, operations.PORTS):
                value = f"{SCHEME}{switch}{BETWEEN}{port.name}"
                say(f"interface {{value={value}}}{{display=vswitch {switch}: {port.name}}}")


def _check_filter(expression: str) -> None:
    """Wireshark takes silence for a good filter, and any text for what is wrong, but only if the exit code is 0."""
    try:
        PacketFilter(expression)
    except VSwitchError as error:
        say(str(error))


def _capture(interface: str, fifo: str, fields: dict[str, str]) -> None:
    """The capture, into the FIFO, until a signal, the switch or whoever reads ends it."""
    descriptor = _open(fifo)
    switch, _, port = interface.removeprefix(SCHEME).partition(BETWEEN)
    asked = [*fields.items(), *([("ports", port)] if port else [])]
    request = operations.read_query(CaptureRequest, asked)
    stream = client.Stream(client.find(switch), operations.CAPTURE, request)
    threading.Thread(target=_end_without_reader, args=(descriptor, stream), daemon=True).start()
    with ending(stream), suppress(client.SwitchEnded), open(descriptor, "wb") as file:
        for data in stream:
            file.write(data)
            file.flush()


def _open(fifo: str) -> int:
    """The FIFO, when the other end is open too. A Wireshark that died before leaves nobody behind: SIGALRM ends us."""
    signal.alarm(OPEN_TIMEOUT_S)
    try:
        return os.open(fifo, os.O_WRONLY)
    except OSError as error:
        raise RefusedError(f"cannot open the FIFO {fifo!r}: {error.strerror}") from None
    finally:
        signal.alarm(0)


def _end_without_reader(descriptor: int, stream: client.Stream) -> None:
    """Without frames nothing is written, and no EPIPE comes. A pipe without reader has POLLERR."""
    pipe = select.poll()
    pipe.register(descriptor, 0)
    pipe.poll()
    stream.end()


def _install() -> None:
    places = _places()
    for path in places:
        _is_ours(path)
    for path, which in places.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{PROGRAM}-{os.getpid()}")  # no Wireshark runs half a file
            new.write_text(_script())
            new.chmod(0o755)
            new.replace(path)
        except OSError as error:
            raise RefusedError(f"cannot write {path}: {error.strerror}") from None
        say(f"installed {path} (Wireshark {which})")
    say("Wireshark lists your running switches when it starts, and after F5; undo with: vswitch extcap --uninstall")


def _uninstall() -> None:
    found = [path for path in _places() if _is_ours(path)]
    for path in found:
        try:
            path.unlink()
        except OSError as error:
            raise RefusedError(f"cannot remove {path}: {error.strerror}") from None
        say(f"removed {path}")
    if not found:
        say("nothing was installed")


def _places() -> dict[Path, str]:
    """The files to write, and which Wireshark looks there: each version in one directory of the user's.

    WIRESHARK_EXTCAP_DIR is no matter: it stands for the system's directory, not the user's.
    """
    try:
        home = Path.home()
    except RuntimeError:
        raise RefusedError("this user has no home directory, where Wireshark looks; set HOME") from None
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "wireshark"
    if not config.is_dir() and (home / ".wireshark").is_dir():
        config = home / ".wireshark"
    return {
        home / ".local/lib/wireshark/extcap" / PROGRAM: "4.2 and later",
        config / "extcap" / PROGRAM: "before 4.2",
    }


def _is_ours(path: Path) -> bool:
    """Whether we have written the file; not if there is none. Raises RefusedError if it is somebody else's."""
    try:
        if MARK.encode() in path.read_bytes():
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RefusedError(f"cannot read {path}: {error.strerror}") from None
    raise RefusedError(f"{path} is not ours; move it elsewhere")


def _script() -> str:
    """Wireshark asks for settings and link types of every interface, each time it starts: that takes no Python."""
    return f"""\
#!/bin/sh
{MARK}
case "$1" in
--extcap-config) printf '%s\\n' {shlex.quote(CONFIG)} ;;
--extcap-dlts) printf '%s\\n' {shlex.quote(DLTS)} ;;
*) exec {shlex.quote(sys.executable)} -P -m vswitch extcap "$@" ;;
esac
"""
