"""The management commands of a VDE switch: one line in, a reply out, no sockets.

Names, framing and codes are those of vde_switch 2.3.2 (its consmgmt.c, port.c, hash.c), tried out against it:

- A reply is `1000 Success`, or `1` and three digits, an errno, with its text. A command that prints has
  `0000 DATA END WITH '.'`, its lines and `.` before that, even when it fails. A blank line and one that starts
  with `#` have no reply.
- A command is the first word, written out; words behind its arguments are ignored.
- `logout` and `shutdown` have no reply: whoever runs the console ends the session.

Commands for what this switch does not have are in vde_unused.py. Where the two differ: numbers are decimal numbers
(vde_switch takes `x` as 0, and some with 0x); the highest port number is the number of ports, not the one below it;
text that clients have sent is escaped; a station behind a port that is not the console's is on port 000, the port's
name behind it; and a port's counters begin anew with each client. For VLANs see vlans.py.

A reply is made in portions: a large MAC table must not hold up forwarding, so between two of them the caller
lets other tasks run. To add a command: a method of Console, and a line in COMMANDS.
"""

import errno
import grp
import os
import pwd
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import chain
from typing import NamedTuple

import msgspec
import trio

from vswitch.dataplane.frame import VLAN_MAX
from vswitch.dataplane.mac_table import NO_PORT, mac_key
from vswitch.endpoints.url import LIMIT_MAX
from vswitch.endpoints.vde import directory, unused
from vswitch.endpoints.vde.managed import Managed, VdePeer
from vswitch.endpoints.vde.replies import (
    Lines,
    Refusal,
    check_created,
    chosen_vlans,
    read_number,
    read_two_numbers,
)
from vswitch.endpoints.vde.vlans import ANYBODY, NO_VLAN, Holder, VdePort, VdeVlans
from vswitch.errors import InputError, printable
from vswitch.ports.forwarding import EXPIRE_PERIOD_MAX_S
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.version import __version__

VDE_VERSION = "2.3.2"  # whose commands these are
BANNER = f"VDE switch V.{VDE_VERSION} (vswitch {__version__})\n".encode()
PROMPT = b"\nvde$ "
END_OF_SESSION = b"9999 END OF SESSION"

AGEING_MAX_S = 1_000_000  # IEEE 802.1Q 8.8.3
PORTION_SLOTS = 512
ENDPOINT_MAX = 2**20
SCRIPT_BYTES_MAX = 2**20

_DATA_STARTS = b"0000 DATA END WITH '.'\n"
_DATA_ENDS = b".\n"
_MAC = re.compile(r"[0-9a-f]{1,2}(?:([:.])[0-9a-f]{1,2})(?:\1[0-9a-f]{1,2}){4}", re.IGNORECASE)


class Console:
    """One session. `ended` says that the last line was to end it, with `logout` or `shutdown`."""

    def __init__(self, managed: Managed) -> None:
        self.managed = managed
        self._ports = managed.ports
        self._table = managed.ports.table
        self._script: bytes | None = None
        self.ended = False

    async def prepare(self, line: bytes) -> None:
        """Read the file that a line names, to be called before `answer`: forwarding waits for no disk."""
        command, _, path = line.partition(b"\0")[0].strip().partition(b" ")
        if command == b"load" and path.strip():
            self._script = await trio.to_thread.run_sync(_read_script, path.strip(), abandon_on_cancel=True)

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
            if name.startswith(arguments.rstrip()):
                lines.append(_HELP.format(name, command.syntax, command.help))
        yield lines

    def showinfo(self, _: str) -> Lines:
        uptime_s = int(trio.current_time() - self.managed.started_s)
        # No address of its own: a switch without spanning tree needs none.
        yield [BANNER.decode(), f"pid {os.getpid()} MAC 00:00:00:00:00:00 uptime {uptime_s}"]
        config = self.managed.config
        if config.mgmt is not None:
            yield [f"mgmt {printable(config.mgmt)} perm 0{config.mgmtmode:03o}"]

    def logout(self, _: str) -> None:
        self.ended = True

    def shutdown(self, _: str) -> None:
        self.ended = True
        self._ports.shutdown.set()

    def load(self, arguments: str) -> Lines:
        script, self._script = self._script, None
        if script is None:
            raise Refusal(errno.ENOENT)
        path = printable(arguments.strip())
        for line in script.splitlines():
            yield [f"vde[{path}]: {printable(line.decode(errors='backslashreplace'))}"]
            for portion in self.answer(line):
                yield portion.decode().splitlines()
        self.ended = False  # as in vde_switch, `logout` in a file ends no session

    def ds_showinfo(self, _: str) -> Lines:
        mode = directory.modes(self.managed.config)[0]
        yield [f"ctl dir {printable(os.path.abspath(self.managed.config.path))}", f"std mode 0{mode:03o}"]

    def hash_showinfo(self, _: str) -> Lines:
        expire_s = self._table.ageing / 1000
        interval_s = min(expire_s / 4, EXPIRE_PERIOD_MAX_S)
        yield [f"Hash size {self._table.capacity}", f"GC interval {interval_s:.0f} secs"]
        yield [f"GC expire {expire_s:.0f} secs", "Min persistence 0 secs"]

    def hash_setexpire(self, arguments: str) -> None:
        self._table.ageing = read_number(arguments, 1, AGEING_MAX_S) * 1000

    def hash_print(self, _: str) -> Lines:
        for start in range(0, self._table.slots(), PORTION_SLOTS):
            yield self._stations(start, start + PORTION_SLOTS)

    def hash_find(self, arguments: str) -> Lines:
        words = arguments.split()
        if not words or not _MAC.fullmatch(words[0]):
            raise Refusal(errno.EINVAL, "write an address like 52:54:00:12:34:56")
        mac = int("".join(byte.zfill(2) for byte in re.split("[:.]", words[0])), 16)
        vlan = read_number(words[1], 0, 4094) if len(words) > 1 else 0
        key = mac_key(self.managed.vlans.in_table(vlan), mac)
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
        yield [f"Numports={self.managed.config.limit}", f"HUB={hub}", "counters=true"]

    def port_sethub(self, arguments: str) -> Lines:
        hub = read_number(arguments, 0, 1) == 1
        if self._ports.bridge.hub and not hub:  # a hub learns nothing: what is in the table is from before
            for port in list(self._ports):
                self._table.forget_port(port.port.index)
                yield []
        self._ports.bridge.hub = hub

    def port_create(self, arguments: str) -> None:
        number = read_number(arguments, 1, self.managed.config.limit)
        if number in self.managed.vlans.ports:
            raise Refusal(errno.EEXIST)
        self.managed.vlans = self.managed.vlans.with_port(number, VdePort(reserved=True))

    def port_createauto(self, _: str) -> Lines:
        vlans = self.managed.vlans
        number = vlans.lowest_free(self._active())
        if number > self.managed.config.limit:
            raise Refusal(errno.ENOSPC)
        port = vlans.ports.get(number, VdePort())
        self.managed.vlans = vlans.with_port(number, port._replace(reserved=True))
        yield [f"Port {number:04d}"]

    def port_remove(self, arguments: str) -> None:
        number = read_number(arguments, 0, self.managed.config.limit)
        self._port(number)
        if number in self._active():
            raise Refusal(errno.EADDRINUSE)
        self.managed.vlans = self.managed.vlans.without_port(number)

    def port_allocatable(self, arguments: str) -> None:
        number, for_all = read_two_numbers(arguments, self.managed.config.limit, 1)
        port = self._port(number)._replace(reserved=not for_all)
        self.managed.vlans = self.managed.vlans.with_port(number, port)

    def port_setvlan(self, arguments: str) -> None:
        number, vlan = read_two_numbers(arguments, self.managed.config.limit, NO_VLAN)
        if vlan != NO_VLAN:
            check_created(self.managed, vlan)
        self._change(self.managed.vlans.with_port(number, self._port(number).with_untagged(vlan)))

    def port_setnumports(self, arguments: str) -> None:
        limit = read_number(arguments, 1, LIMIT_MAX)
        if any(number > limit for number in self.managed.vlans.ports):
            raise Refusal(errno.EADDRINUSE)
        self.managed.config = msgspec.structs.replace(self.managed.config, limit=limit)

    def port_setuser(self, arguments: str) -> None:
        number, user = self._port_and_holder(arguments, lambda name: pwd.getpwnam(name).pw_uid)
        self.managed.vlans = self.managed.vlans.with_port(number, self._port(number)._replace(user=user))

    def port_setgroup(self, arguments: str) -> None:
        number, group = self._port_and_holder(arguments, lambda name: grp.getgrnam(name).gr_gid)
        self.managed.vlans = self.managed.vlans.with_port(number, self._port(number)._replace(group=group))

    def port_epclose(self, arguments: str) -> None:
        number, endpoint = read_two_numbers(arguments, self.managed.config.limit, ENDPOINT_MAX)
        peer = self._active().get(number)
        if peer is None or peer.port.port.index != endpoint:
            raise Refusal(errno.ENXIO)
        if peer.unplug is None:
            raise Refusal(errno.EOPNOTSUPP, "it is no client")
        peer.unplug()

    def port_resetcounter(self, arguments: str) -> None:
        wanted = read_number(arguments, 0, self.managed.config.limit) if arguments else None
        for peer in self.managed.peers():
            if wanted in (None, peer.number):
                peer.port.counted_from = _counters(peer.port)

    def port_print(self, arguments: str) -> Lines:
        return self._print_ports(arguments, self._active())

    def port_allprint(self, arguments: str) -> Lines:
        return self._print_ports(arguments, self.managed.vlans.ports)

    def vlan_create(self, arguments: str) -> None:
        vlan, vlans = read_number(arguments, 1, VLAN_MAX), self.managed.vlans
        if vlan in vlans.created:
            raise Refusal(errno.EEXIST)
        self._change(vlans._replace(created=vlans.created | {vlan}))

    def vlan_remove(self, arguments: str) -> None:
        vlan, vlans = read_number(arguments, 1, VLAN_MAX), self.managed.vlans
        check_created(self.managed, vlan)
        if any(vlan in port.vlans for port in vlans.ports.values()):
            raise Refusal(errno.EADDRINUSE)
        self._change(vlans._replace(created=vlans.created - {vlan}))

    def vlan_addport(self, arguments: str) -> None:
        vlan, number, port = self._vlan_and_port(arguments)
        self._change(self.managed.vlans.with_port(number, port._replace(vlans=port.vlans | {vlan})))

    def vlan_delport(self, arguments: str) -> None:
        vlan, number, port = self._vlan_and_port(arguments)
        if vlan == port.untagged:
            raise Refusal(errno.EADDRINUSE)
        self._change(self.managed.vlans.with_port(number, port._replace(vlans=port.vlans - {vlan})))

    def vlan_print(self, arguments: str) -> Lines:
        return self._print_vlans(arguments, self._active())

    def vlan_allprint(self, arguments: str) -> Lines:
        return self._print_vlans(arguments, self.managed.vlans.ports)

    def _active(self) -> dict[int, VdePeer]:
        """Who is plugged in, by port number."""
        return {peer.number: peer for peer in self.managed.peers()}

    def _print_ports(self, wanted: str, numbers: Collection[int]) -> Lines:
        """Some ports, or only the one of them that is wanted."""
        active, ports = self._active(), self.managed.vlans.ports
        if wanted:
            number = read_number(wanted, 0, 99999)
            if number not in numbers:
                raise Refusal(errno.ENXIO)
            numbers = [number]
        for number in sorted(numbers):
            peer, state, user, counters = active.get(number), "INACTIVE", "NONE", [0, 0, 0, 0]
            if peer is not None:
                state, user = "ACTIVE", printable(peer.user)
                counters = [now - then for now, then in zip(_counters(peer.port), peer.port.counted_from, strict=True)]
            holders = f"(User: {ports[number].user.name} - Group: {ports[number].group.name})"
            allocatable = "NOT Unnamed Allocatable" if ports[number].reserved else "Unnamed Allocatable"
            lines = [
                f"Port {number:04d} untagged_vlan={ports[number].untagged:04d} {state} - {allocatable}",
                f" Current User: {user} Access Control: {holders}",
                " IN:  pkts {:10d}          bytes {:20d}".format(*counters[:2]),
                " OUT: pkts {:10d}          bytes {:20d}".format(*counters[2:]),
            ]
            if peer is not None:
                name = printable(peer.description)
                lines.append(f"  -- endpoint ID {peer.port.port.index:04d} module {peer.module:<12}: {name}")
            yield lines

    def _print_vlans(self, wanted: str, numbers: Collection[int]) -> Lines:
        """All VLANs, or only the one that is wanted, each with those of some ports that are in it."""
        active, vlans = self._active(), self.managed.vlans
        for vlan in chosen_vlans(self.managed, wanted, VLAN_MAX):
            lines = [f"VLAN {vlan:04d}"]
            for number in sorted(numbers):
                state = "active=1 status=Forwarding" if number in active else "active=0 status=Learning"
                if vlan in vlans.ports[number].vlans:
                    tagged = int(vlan != vlans.ports[number].untagged)
                    lines.append(f" -- Port {number:04d} tagged={tagged} {state}")
            yield lines

    def _port(self, number: int) -> VdePort:
        """Raises Refusal."""
        port = self.managed.vlans.ports.get(number)
        if port is None:
            raise Refusal(errno.ENXIO)
        return port

    def _port_and_holder(self, arguments: str, find: Callable[[str], int]) -> tuple[int, Holder]:
        """A port's number, and the user or group that it is to be for. Raises Refusal."""
        words = arguments.split()
        number = read_number(arguments, 0, self.managed.config.limit)
        if len(words) < 2:
            raise Refusal(errno.EINVAL, "a name or a number is needed")
        self._port(number)
        if words[1] in ("NONE", "ANY"):
            return number, ANYBODY
        try:
            return number, Holder(find(words[1]), printable(words[1]))
        except (KeyError, ValueError):  # also a name that none can have
            return number, Holder(read_number(words[1], 0, 2**31), words[1])

    def _vlan_and_port(self, arguments: str) -> tuple[int, int, VdePort]:
        """A VLAN, and a port with its number. Raises Refusal."""
        vlan, number = read_two_numbers(arguments, VLAN_MAX, self.managed.config.limit)
        check_created(self.managed, vlan)
        return vlan, number, self._port(number)

    def _change(self, vlans: VdeVlans) -> None:
        """Have the ports go by other VLANs, all of them or none. Raises Refusal."""
        before = self.managed.vlans
        try:
            self._apply(vlans)
        except InputError as error:  # they do not go with the policies of other endpoints' ports
            self._apply(before)
            raise Refusal(errno.EBUSY, str(error)) from None

    def _apply(self, vlans: VdeVlans) -> None:
        self.managed.vlans = vlans
        for peer in self.managed.peers():
            policy = vlans.policy(peer.number, peer.port.policy, self.managed.config.policy)
            if policy != peer.port.policy:
                self._ports.wiring.set_policy(peer.port, policy)

    def _stations(self, start: int, end: int, wanted: int | None = None) -> list[str]:
        """The stations in some of the table's slots, or only the one with the key that is wanted."""
        lines = []
        numbers = {peer.port: peer.number for peer in self.managed.peers()}
        for vlan, mac, index, age_ms in self._table.entries(now_ms(), start, end):
            port = self._ports.by_index(index)
            key = mac_key(vlan, mac)
            if port is None or wanted not in (None, key):
                continue
            home, address = self._table.home(key), mac.to_bytes(6).hex(":")
            untagged = self.managed.vlans.shown(vlan)
            place = f"to port: {numbers.get(port, 0):03d}  age {age_ms // 1000} secs"
            other = "" if port in numbers else f"  ({port.name})"
            lines.append(f"Hash: {home:04d} Addr: {address} VLAN {untagged:04d} {place}{other}")
        return lines


def _read_script(path: bytes) -> bytes | None:
    """What is in a file; None if it cannot be read."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read(SCRIPT_BYTES_MAX) or b""
    except (OSError, ValueError):
        return None


def _counters(port: SwitchPort) -> tuple[int, int, int, int]:
    counted = port.port
    return counted.rx_frames, counted.rx_bytes, counted.tx_frames, counted.tx_bytes


def _refuse(number: int, why: str, _console: Console, _arguments: str) -> None:
    raise Refusal(number, why)


class Command(NamedTuple):
    """`prints`: its reply has a data block."""

    run: Callable[[Console, str], Lines | None]
    prints: bool = False
    syntax: str = ""
    help: str = ""


def _menu(title: str) -> Command:
    return Command(_UNKNOWN.run, False, "============", title)


def _unused(run: Callable[[Managed, str], Lines | None], prints: bool, syntax: str, help: str) -> Command:
    return Command(lambda console, arguments: run(console.managed, arguments), prints, syntax, help)


_HELP = "{:<18} {:<15} {}"
_UNKNOWN = Command(partial(_refuse, errno.ENOSYS, ""))
COMMANDS = {
    "ds": _menu("CONTROL DIRECTORY"),
    "ds/showinfo": Command(Console.ds_showinfo, True, "", "where clients plug in"),
    "help": Command(Console.help, True, "[PATH]", "this list, or what starts with PATH"),
    "logout": Command(Console.logout, False, "", "leave this session"),
    "shutdown": Command(Console.shutdown, False, "", "end the switch"),
    "showinfo": Command(Console.showinfo, True, "", "version, process and management socket"),
    "load": Command(Console.load, False, "PATH", "run the commands in a file"),
    "debug": _menu("DEBUG: THERE IS NONE"),
    "debug/list": _unused(unused.debug_list, True, "[PATH]", "categories that vde_switch has"),
    "debug/add": _unused(unused.debug_add, False, "PATH", "no effect"),
    "debug/del": _unused(unused.debug_del, False, "PATH", "no effect"),
    "plugin": _menu("PLUGINS: THERE ARE NONE"),
    "plugin/list": _unused(unused.plugin_list, True, "", "an empty list"),
    "plugin/add": _unused(unused.plugin_add, False, "NAME", "there is none of any name"),
    "plugin/del": _unused(unused.plugin_del, False, "NAME", "there is none of any name"),
    "hash": _menu("MAC TABLE"),
    "hash/showinfo": Command(Console.hash_showinfo, True, "", "size and ageing"),
    "hash/setsize": _unused(unused.hash_setsize, False, "N", "no effect: the size is that of the start"),
    "hash/setgcint": _unused(unused.hash_setgcint, False, "N", "no effect: it follows from the ageing time"),
    "hash/setminper": _unused(unused.hash_setminper, False, "N", "no effect: who moves is followed at once"),
    "hash/setexpire": Command(Console.hash_setexpire, False, "N", "forget stations silent for N seconds"),
    "hash/print": Command(Console.hash_print, True, "", "all stations and their ports"),
    "hash/find": Command(Console.hash_find, True, "MAC [VLAN]", "one station"),
    "fstp": _menu("SPANNING TREE: THERE IS NONE"),
    "fstp/showinfo": _unused(unused.fstp_showinfo, True, "", "that there is none"),
    "fstp/setfstp": _unused(unused.fstp_setfstp, True, "0/1", "no effect"),
    "fstp/setedge": _unused(unused.fstp_of_port, False, "VLAN PORT 0/1", "no effect"),
    "fstp/bonus": _unused(unused.fstp_of_port, False, "VLAN PORT N", "no effect"),
    "fstp/print": _unused(unused.fstp_print, True, "[N]", "each VLAN's tree: this switch is its root"),
    "port": _menu("PORTS"),
    "port/showinfo": Command(Console.port_showinfo, True, "", "number of ports, hub or switch"),
    "port/setnumports": Command(Console.port_setnumports, False, "N", "have ports 1 to N, at most"),
    "port/sethub": Command(Console.port_sethub, False, "0/1", "1: repeat every frame to all ports, 0: switch"),
    "port/setvlan": Command(Console.port_setvlan, False, "N VLAN", "the VLAN of its untagged frames; 4095: none"),
    "port/createauto": Command(Console.port_createauto, True, "", "port/create with a number that is free"),
    "port/create": Command(Console.port_create, False, "N", "have port N, for clients that ask for it"),
    "port/remove": Command(Console.port_remove, False, "N", "forget what is set for port N"),
    "port/allocatable": Command(Console.port_allocatable, False, "N 0/1", "1: for all clients, 0: that ask for it"),
    "port/setuser": Command(Console.port_setuser, False, "N USER", "only USER, or root, may plug in there; ANY"),
    "port/setgroup": Command(Console.port_setgroup, False, "N GROUP", "only who is in GROUP, or root, may; ANY"),
    "port/epclose": Command(Console.port_epclose, False, "N ID", "unplug client ID of port N"),
    "port/resetcounter": Command(Console.port_resetcounter, False, "[N]", "count anew"),
    "port/print": Command(Console.port_print, True, "[N]", "ports that are in use, counters and clients"),
    "port/allprint": Command(Console.port_allprint, True, "[N]", "all ports that there are"),
    "vlan": _menu("VLANS"),
    "vlan/create": Command(Console.vlan_create, False, "N", "have VLAN N, which is tagged N"),
    "vlan/remove": Command(Console.vlan_remove, False, "N", "remove VLAN N, when no port is in it"),
    "vlan/addport": Command(Console.vlan_addport, False, "N PORT", "have a port carry VLAN N tagged"),
    "vlan/delport": Command(Console.vlan_delport, False, "N PORT", "have it carry VLAN N no more"),
    "vlan/print": Command(Console.vlan_print, True, "[N]", "VLANs and their ports that are in use"),
    "vlan/allprint": Command(Console.vlan_allprint, True, "[N]", "VLANs and all their ports"),
}
