"""Who on this machine is in a multicast group, and on which interface, as /proc/net has it (proc(5)).

QEMU without `localaddr=` joins on the interface of the default route. A switch that has joined on another one, as on
loopback, never hears that guest, and nothing else tells.
"""

import contextlib
import re
import socket
from collections import Counter
from pathlib import Path

from vswitch.endpoints import inet
from vswitch.endpoints.sock_diag import proc_address

MARK = "vswitch/mcast"  # begins the abstract name that a switch leaves: then group, port, its own address, a number


def interface_of(address: str) -> str | None:
    """The interface that has an address as its first."""
    return next((name for _, name in socket.if_nameindex() if inet.interface_address(name) == address), None)


def strays(group: str, port: int, here: str) -> list[str]:
    """Interfaces on which guests of this machine are in the group where no switch hears them; ours has `here`.

    What proves it: of the sockets at the group's port, more are guests' than have joined where there is a switch.
    """
    guests = _users(proc_address(group))
    if len(guests) < 2 or (ours := interface_of(here)) is None:
        return []
    at_port = _read("udp").count(f": {proc_address(group)}:{port:04X} ")  # as their own end
    heard = {ours}
    for number, address in re.findall(rf"@{MARK}/{re.escape(group)}:(\d+)/([\d.]+)/", _read("unix")):
        if (interface := interface_of(address)) is None:
            return []
        guests[interface] -= 1  # which is the switch itself
        if int(number) == port:
            at_port -= 1
            heard.add(interface)
    if at_port <= sum(guests[interface] for interface in heard):
        return []
    return sorted(interface for interface, count in guests.items() if count > 0 and interface not in heard)


def _users(group: str) -> Counter[str]:
    """How many sockets have joined a group, by interface."""
    users: Counter[str] = Counter()
    name = ""
    for line in _read("igmp").splitlines()[1:]:
        words = line.split()
        if not line.startswith("\t"):
            name = words[1].rstrip(":")
        elif words[0] == group:
            users[name] = int(words[1])
    return users


def _read(table: str) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/net", table).read_text(errors="replace")
    return ""
