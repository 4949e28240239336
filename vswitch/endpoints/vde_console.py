"""The management commands of a VDE switch: one line in, a reply out, no sockets.

Names, framing and codes are those of vde_switch 2.3.2 (its consmgmt.c, port.c, hash.c), tried out against it:

- A reply is `1000 Success`, or `1` and three digits, an errno, with its text. A command that prints has
  `0000 DATA END WITH '.'`, its lines and `.` before that, even when it fails. A blank line and one that starts
  with `#` have no reply.
- A command is the first word, written out; words behind its arguments are ignored.
- `logout` and `shutdown` have no reply: whoever runs the console ends the session.

What vde_switch can do and this switch cannot is refused with 1095 and a reason. Where the two differ: numbers
are numbers (vde_switch takes `x` as 0); text that clients have sent is escaped; and a station behind a port that is
not of this endpoint is on port 000, the port's name behind it.

A reply is made in portions: a large MAC table must not hold up forwarding, so between two of them the caller
lets other tasks run. To add a command: a method of Console, and a line in COMMANDS.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol

import trio

from vswitch.dataplane.mac_table import NO_PORT, mac_key
from vswitch.endpoints import vde_directory
from vswitch.endpoints.ports import EXPIRE_PERIOD_MAX_S, Ports, SwitchPort, now_ms
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import printable
from vswitch.version import __version__

VDE_VERSION = "2.3.2"  # whose commands these are
BANNER = f"VDE switch V.{VDE_VERSION} (vswitch {__version__})\n".encode()
PROMPT = b"\nvde$ "
END_OF_SESSION = b"9999 END OF SESSION"

AGEING_MAX_S = 1_000_000  # IEEE 802.1Q 8.8.3
PORTION_SLOTS = 512
VLAN_DEFAULT = 1  # the table's VLAN of untagged frames, which is 0 here

Lines = Iterator[list[str]]  # portions of what a command prints

_DATA_STARTS = b"0000 DATA END WITH '.'\n"
_DATA_ENDS = b".\n"
_MAC = re.compile(r"[0-9a-f]{1,2}(?:([:.])[0-9a-f]{1,2})(?:\1[0-9a-f]{1,2}){4}", re.IGNORECASE)


class VdePeer(NamedTuple):
    """One client that is plugged in."""

    number: int  # of its port, from 1
    user: str  # whose it is: a name, or a number in digits
    description: str  # the client's own words, any text
    port: SwitchPort


class Managed(Protocol):
    """What the console knows of a VDE endpoint. `started_s` is when it began to serve, by trio's clock."""

    config: EndpointConfig
    ports: Ports
    started_s: float

    def peers(self) -> Sequence[VdePeer]:
        """Who is plugged in, by port number."""
        ...


class Refusal(Exception):
    """A command that cannot be done: an errno, and why if its text does not say it."""

    def __init__(self, number: int, why: str = "") -> None:
        text = os.strerror(number)
        super().__init__(f"1{number:03d} {text}: {why}" if why else f"1{number:03d} {text}")


class Console:
    """One session. `ended` says that the last line was to end it, with `logout` or `shutdown`."""

    def __init__(self, managed: Managed) -> None:
        self._managed = managed
        self._ports = managed.ports
        self._table = managed.ports.table
        self.ended = False

    def answer(self, line: bytes) -> Iterator[bytes]:
        """The reply to one line, whatever its bytes, in portions that may be empty; without a prompt."""
        self.ended = False
        words = line.partition(b"\0")[0].decode(errors="backslashreplace").split(maxsplit=1)
        if not words or words[0].startswith("#"):
            return
        command = COMMANDS.get(words[0], _UNKNOWN)
        reply = "1000 Success"
        if command.prints:
            yield _DATA_STARTS
        try:
            for lines in command.run(self, words[1] if len(words) > 1 else "") or ():
                yield "".join(f"{line}\n" for line in lines).encode()
        except Refusal as refusal:
            reply = str(refusal)
        if command.prints:
            yield _DATA_ENDS
        if not self.ended:
            yield f"{reply}\n".encode()

    def help(self, arguments: str) -> Lines:
        lines = [_HELP.format("COMMAND PATH", "SYNTAX", "HELP"), _HELP.format("-" * 12, "-" * 14, "-" * 12)]
        for name, command in COMMANDS.items():
            if name.startswith(arguments.rstrip()) and command.help:
                lines.append(_HELP.format(name, command.syntax, command.help))
        yield lines

    def showinfo(self, _: str) -> Lines:
        uptime_s = int(trio.current_time() - self._managed.started_s)
        # No address of its own: a switch without spanning tree needs none.
        yield [BANNER.decode(), f"pid {os.getpid()} MAC 00:00:00:00:00:00 uptime {uptime_s}"]
        config = self._managed.config
        if config.mgmt is not None:
            yield [f"mgmt {printable(config.mgmt)} perm 0{config.mgmtmode:03o}"]

    def logout(self, _: str) -> None:
        self.ended = True

    def shutdown(self, _: str) -> None:
        self.ended = True
        self._ports.shutdown.set()

    def ds_showinfo(self, _: str) -> Lines:
        mode = vde_directory.modes(self._managed.config)[0]
        yield [f"ctl dir {printable(os.path.abspath(self._managed.config.path))}", f"std mode 0{mode:03o}"]

    def hash_showinfo(self, _: str) -> Lines:
        expire_s = self._table.ageing / 1000
        interval_s = min(expire_s / 4, EXPIRE_PERIOD_MAX_S)
        yield [f"Hash size {self._table.capacity}", f"GC interval {interval_s:.0f} secs"]
        yield [f"GC expire {expire_s:.0f} secs", "Min persistence 0 secs"]

    def hash_setexpire(self, arguments: str) -> None:
        self._table.ageing = _number(arguments, 1, AGEING_MAX_S) * 1000

    def hash_print(self, _: str) -> Lines:
        for start in range(0, self._table.slots(), PORTION_SLOTS):
            yield self._stations(start, start + PORTION_SLOTS)

    def hash_find(self, arguments: str) -> Lines:
        words = arguments.split()
        if not words or not _MAC.fullmatch(words[0]):
            raise Refusal(errno.EINVAL, "write an address like 52:54:00:12:34:56")
        mac = int("".join(byte.zfill(2) for byte in re.split("[:.]", words[0])), 16)
        vlan = _number(words[1], 0, 4094) if len(words) > 1 else 0
        key = mac_key(vlan or VLAN_DEFAULT, mac)
        if self._table.lookup(key, now_ms()) == NO_PORT:
            raise Refusal(errno.ENODEV)
        home, slots = self._table.home(key), self._table.slots()  # from its home on, and round the table's end
        for start in chain(range(home, slots, PORTION_SLOTS), range(0, home, PORTION_SLOTS)):
            if found := self._stations(start, start + PORTION_SLOTS, key):
                yield found
                return
            yield []

    def port_showinfo(self, _: str) -> Lines:
        hub = "true" if self._ports.bridge.hub else "false"
        yield [f"Numports={self._managed.config.limit}", f"HUB={hub}", "counters=true"]

    def port_sethub(self, arguments: str) -> Lines:
        hub = _number(arguments, 0, 1) == 1
        if self._ports.bridge.hub and not hub:  # a hub learns nothing: what is in the table is from before
            for port in list(self._ports):
                self._table.forget_port(port.port.index)
                yield []
        self._ports.bridge.hub = hub

    def port_create(self, arguments: str) -> None:
        """Nothing to do: a client gets the port that it asks for."""
        _number(arguments, 1, self._managed.config.limit)

    def port_print(self, arguments: str) -> Lines:
        for peer in self._peers(arguments):
            port = peer.port.port
            yield [
                f"Port {peer.number:04d} untagged_vlan=0000 ACTIVE - Unnamed Allocatable",
                f" Current User: {printable(peer.user)} Access Control: (User: NONE - Group: NONE)",
                f" IN:  pkts {port.rx_frames:10d}          bytes {port.rx_bytes:20d}",
                f" OUT: pkts {port.tx_frames:10d}          bytes {port.tx_bytes:20d}",
                f"  -- endpoint ID {port.index:04d} module {'unix prog':<12}: {printable(peer.description)}",
            ]

    def vlan_print(self, arguments: str) -> Lines:
        if arguments and _number(arguments, 0, 4094) != 0:
            raise Refusal(errno.ENXIO)
        yield ["VLAN 0000"]
        for peer in self._peers(""):
            yield [f" -- Port {peer.number:04d} tagged=0 active=1 status=Forwarding"]

    def _peers(self, wanted: str) -> Sequence[VdePeer]:
        """Who is plugged in, or only the one on the port that is wanted. Raises Refusal."""
        peers = self._managed.peers()
        if not wanted:
            return peers
        number = _number(wanted, 0, 99999)
        if not (found := [peer for peer in peers if peer.number == number]):
            raise Refusal(errno.ENXIO)
        return found

    def _stations(self, start: int, end: int, wanted: int | None = None) -> list[str]:
        """The stations in some of the table's slots, or only the one with the key that is wanted."""
        lines = []
        numbers = {peer.port: peer.number for peer in self._managed.peers()}
        for vlan, mac, index, age_ms in self._table.entries(now_ms(), start, end):
            port = self._ports.by_index(index)
            key = mac_key(vlan, mac)
            if port is None or wanted not in (None, key):
                continue
            home, address = self._table.home(key), mac.to_bytes(6).hex(":")
            untagged = 0 if vlan == VLAN_DEFAULT else vlan
            place = f"to port: {numbers.get(port, 0):03d}  age {age_ms // 1000} secs"
            other = "" if port in numbers else f"  ({port.name})"
            lines.append(f"Hash: {home:04d} Addr: {address} VLAN {untagged:04d} {place}{other}")
        return lines


def _number(arguments: str, least: int, most: int) -> int:
    """The first word as a number. Raises Refusal."""
    word = arguments.split(maxsplit=1)[0] if arguments else ""
    if not re.fullmatch("[0-9]{1,9}", word) or not least <= int(word) <= most:
        raise Refusal(errno.EINVAL, f"a number from {least} to {most} is needed")
    return int(word)


def _refuse(number: int, why: str, _console: Console, _arguments: str) -> None:
    raise Refusal(number, why)


class Command(NamedTuple):
    """`prints`: its reply has a data block. Without `help` it is not listed, as it is there to be refused."""

    run: Callable[[Console, str], Lines | None]
    prints: bool = False
    syntax: str = ""
    help: str = ""


def _menu(title: str) -> Command:
    return Command(_UNKNOWN.run, False, "============", title)


def _unable(why: str) -> Command:
    return Command(partial(_refuse, errno.EOPNOTSUPP, why))


_HELP = "{:<18} {:<15} {}"
_UNKNOWN = Command(partial(_refuse, errno.ENOSYS, ""))
_NO_VLANS = "every port carries all VLANs"
_PEERS_MAKE_PORTS = "a port is there while a peer is plugged in"
_NO_ACCESS_CONTROL = "the control socket's permissions say who may plug in"
_NO_SPANNING_TREE = "this switch has no spanning tree"
_NO_DEBUG = "the log has what happens"
_NO_PLUGINS = "this switch has no plugins"

COMMANDS = {
    "ds": _menu("CONTROL DIRECTORY"),
    "ds/showinfo": Command(Console.ds_showinfo, True, "", "where clients plug in"),
    "help": Command(Console.help, True, "[PATH]", "this list, or what starts with PATH"),
    "logout": Command(Console.logout, False, "", "leave this session"),
    "shutdown": Command(Console.shutdown, False, "", "end the switch"),
    "showinfo": Command(Console.showinfo, True, "", "version, process and management socket"),
    "hash": _menu("MAC TABLE"),
    "hash/showinfo": Command(Console.hash_showinfo, True, "", "size and ageing"),
    "hash/setexpire": Command(Console.hash_setexpire, False, "N", "forget stations silent for N seconds"),
    "hash/print": Command(Console.hash_print, True, "", "all stations and their ports"),
    "hash/find": Command(Console.hash_find, True, "MAC [VLAN]", "one station"),
    "port": _menu("PORTS"),
    "port/showinfo": Command(Console.port_showinfo, True, "", "number of ports, hub or switch"),
    "port/sethub": Command(Console.port_sethub, False, "0/1", "1: repeat every frame to all ports, 0: switch"),
    "port/create": Command(Console.port_create, False, "N", "have port N, which is there anyway"),
    "port/print": Command(Console.port_print, True, "[N]", "ports that are in use, counters and clients"),
    "port/allprint": Command(Console.port_print, True, "[N]", "the same: only ports in use are there"),
    "vlan": _menu("VLANS"),
    "vlan/print": Command(Console.vlan_print, True, "[N]", "VLANs and their ports"),
    "vlan/allprint": Command(Console.vlan_print, True, "[N]", "the same"),
    "load": _unable("start the switch with --rcfile"),
    "debug/list": _unable(_NO_DEBUG),
    "debug/add": _unable(_NO_DEBUG),
    "debug/del": _unable(_NO_DEBUG),
    "plugin/list": _unable(_NO_PLUGINS),
    "plugin/add": _unable(_NO_PLUGINS),
    "plugin/del": _unable(_NO_PLUGINS),
    "hash/setsize": _unable("the table's size is set when the switch starts"),
    "hash/setgcint": _unable("it follows from the ageing time"),
    "hash/setminper": _unable("a station that moves is followed at once"),
    "fstp/showinfo": _unable(_NO_SPANNING_TREE),
    "fstp/setfstp": _unable(_NO_SPANNING_TREE),
    "fstp/setedge": _unable(_NO_SPANNING_TREE),
    "fstp/bonus": _unable(_NO_SPANNING_TREE),
    "fstp/print": _unable(_NO_SPANNING_TREE),
    "port/setnumports": _unable("the number of ports is set when the switch starts"),
    "port/setvlan": _unable(_NO_VLANS),
    "port/createauto": _unable(_PEERS_MAKE_PORTS),
    "port/remove": _unable(_PEERS_MAKE_PORTS),
    "port/allocatable": _unable(_NO_ACCESS_CONTROL),
    "port/setuser": _unable(_NO_ACCESS_CONTROL),
    "port/setgroup": _unable(_NO_ACCESS_CONTROL),
    "port/epclose": _unable("unplug it at its own end"),
    "port/resetcounter": _unable("counters run as long as the port is there"),
    "vlan/create": _unable(_NO_VLANS),
    "vlan/remove": _unable(_NO_VLANS),
    "vlan/addport": _unable(_NO_VLANS),
    "vlan/delport": _unable(_NO_VLANS),
}
