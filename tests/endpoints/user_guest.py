"""A guest of a user network, for tests: a station with DHCP and ping; and the process of the network."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.needs import require
from tests.peers import Peer, until
from vswitch import RefusedError, VSwitch
from vswitch.endpoints.user.child import PROGRAM
from vswitch.services.user_network.slirp import Library

GATEWAY = "52:55:0a:00:02:02"
ALL = "ff:ff:ff:ff:ff:ff"


def need_libslirp() -> None:
    try:
        Library()
    except RefusedError as error:
        require(False, str(error))


class Guest:
    """A station with DHCP and ping."""

    def __init__(self, peer: Peer, mac: str) -> None:
        self.peer, self.mac = peer, mac
        self.ip = "0.0.0.0"

    @classmethod
    async def plugged_into(cls, switch: VSwitch, name: str, mac: str) -> "Guest":
        return cls(await Peer.plugged_into(switch, name=name), mac)

    async def send(self, packet: Packet) -> None:
        await self.peer.send(bytes(packet))

    async def receive(self, layer: type[Packet], source: bytes = b"") -> Packet:
        """The next frame with a layer, from a station whose address begins so."""
        while True:
            (frame,) = await self.peer.receive(1)
            if not frame[6:12].startswith(source):
                continue
            if layer in (packet := Ether(frame)):
                return packet

    async def ask(self, kind: str, *options: Any) -> None:
        said = BOOTP(chaddr=self._chaddr) / DHCP(options=[("message-type", kind), *options, "end"])
        packet = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / said
        await self.send(Ether(src=self.mac, dst=ALL) / packet)

    async def dhcp(self, kind: str, *options: Any) -> Packet:
        await self.ask(kind, *options)
        while True:
            packet = await self.receive(BOOTP, b"\x52\x55")
            if packet[BOOTP].op == 2 and packet[BOOTP].chaddr[:6] == self._chaddr:
                return packet

    @property
    def _chaddr(self) -> bytes:
        return bytes.fromhex(self.mac.replace(":", ""))

    async def lease(self, name: str = "") -> str:
        """The address that it takes, with a name if it says one."""
        offer = await self.dhcp("discover")
        said = [("hostname", name.encode())] if name else []
        ack = await self.dhcp("request", ("requested_addr", offer[BOOTP].yiaddr), *said)
        assert ("message-type", 5) in ack[DHCP].options
        self.ip = ack[BOOTP].yiaddr
        return self.ip

    async def ping(self, address: str, mac: str = GATEWAY) -> None:
        await self.send(Ether(src=self.mac, dst=mac) / IP(src=self.ip, dst=address) / ICMP(id=7))
        answer = await self.receive(ICMP, bytes.fromhex(mac.replace(":", "")))
        assert answer[IP].src == address


def child_of(parent: int) -> int | None:
    """The process of a user network."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and PROGRAM.encode() in (path.parent / "cmdline").read_bytes():
                return int(path.parent.name)
        except OSError:
            continue
    return None


@asynccontextmanager
async def restarted(switch: VSwitch, number: signal.Signals) -> AsyncIterator[None]:
    """Its process ends, and another one is there in the end."""
    before = child_of(os.getpid())
    assert before is not None
    os.kill(before, number)
    yield
    await until(lambda: child_of(os.getpid()) not in (None, before))
    await until(lambda: next(port for port in switch.ports() if port.name == "net").up)
