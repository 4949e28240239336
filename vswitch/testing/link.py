"""Cables: what plugs a machine into the switch of a test's LAN."""

import ipaddress
import socket
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

from vswitch import Attachment, InputError, VSwitch

Interface = ipaddress.IPv4Interface
DHCP = "dhcp"
STREAM, VHOST_USER = TRANSPORTS = ("stream", "vhost-user")


@dataclass(frozen=True)
class Nic:
    """A network card that is asked for.

    `ip`: an address (`10.0.0.9`, of the LAN's network), or with its prefix length; "" for none, None for the next one
    that is free; "dhcp" has a tiny guest ask for one. `mac`: made from the machine's name unless given. `device`: as
    QEMU's `-device` has it. `port`: the URL parameters of the switch's port: `{"vlan": 10}`. `transport`: how frames
    reach the switch, by a `stream` or by memory that the guest shares, `vhost-user`.
    """

    ip: str | None = None
    mac: str = ""
    device: str = ""
    port: dict[str, Any] = field(default_factory=dict)
    transport: str = STREAM

    @property
    def shares_memory(self) -> bool:
        return self.transport == VHOST_USER

    def __post_init__(self) -> None:
        """Raises InputError for a transport that there is not."""
        if self.transport not in TRANSPORTS:
            raise InputError(f"transport is {self.transport!r}; there are {', '.join(TRANSPORTS)}")


class Link:
    """A cable between a machine and its port, which has the same name: `a`, and for more cards `a-2`, `a-3`, …"""

    def __init__(self, switch: VSwitch, name: str, mac: str, interface: Interface | None, nic: Nic) -> None:
        self.name = name
        self.mac = mac
        self.interface = interface
        self.nic = nic
        self._switch = switch
        self._attachment: Attachment | None = None
        self._directory: TemporaryDirectory[str] | None = None  # of a socket's path

    def __repr__(self) -> str:
        return f"<Link {' '.join(filter(None, [self.name, self.ip, self.mac]))}>"

    @property
    def ip(self) -> str:
        """The address without its prefix length, "" if there is none."""
        return str(self.interface.ip) if self.interface else ""

    async def plug(self) -> socket.socket:
        """The machine's end of a new cable, a connected stream socket with QEMU's framing, for the caller to close.

        Raises InputError for a wrong parameter of the port.
        """
        await self.unplug()
        ours, theirs = socket.socketpair()
        try:
            self._attachment = await self._switch.attach(ours, name=self.name, **self.nic.port)
        except InputError as error:  # which names the descriptor
            ours.close()
            theirs.close()
            raise InputError(f"{self.name}: {str(error).partition(': ')[2]}") from None
        return theirs

    async def listen(self) -> str:
        """The path of a socket where the front end of a card that shares its memory is to connect; as `plug`."""
        await self.unplug()
        self._directory = TemporaryDirectory(prefix="vs-")
        path = f"{self._directory.name}/card"
        try:
            url = f"{VHOST_USER}://{path}?single"
            self._attachment = await self._switch.attach(url, name=self.name, **self.nic.port)
        except InputError as error:  # which names the path
            raise InputError(f"{self.name}: {str(error).partition(': ')[2]}") from None
        return path

    async def unplug(self) -> None:
        """Take the cable out; the port goes."""
        if self._attachment is not None:
            attachment, self._attachment = self._attachment, None
            await attachment.detach()
        if self._directory is not None:
            directory, self._directory = self._directory, None
            directory.cleanup()


class WithOneCable:
    """A machine at the end of one cable, and named like it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.name = link.name

    @property
    def mac(self) -> str:
        return self.link.mac

    @property
    def ip(self) -> str:
        return self.link.ip
