"""Asks for an address by DHCP, once (RFC 2131, 3.1)."""

import secrets
import socket
import struct
import time
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface
from typing import NamedTuple

from vswitch.protocols import dhcp
from vswitch.protocols.dhcp import Answer

WAITS_S = (0.5, 1.0, 2.0, 4.0)  # for an answer, each time it is asked (RFC 2131, 4.1, but sooner)
WANTED = bytes([dhcp.SUBNET_MASK, dhcp.ROUTER, dhcp.DNS, dhcp.DOMAIN_NAME, dhcp.MTU])
_PARAMETERS = 55  # the option that lists what is wanted
_SO_BINDTODEVICE = 25


class Lease(NamedTuple):
    address: IPv4Interface
    gateway: IPv4Address | None
    dns: list[IPv4Address]
    domain: str
    mtu: int | None


def ask(interface: str, mac: str, name: str) -> Lease | None:
    """A lease for an interface that is up, and for what is called so; None if nobody gives one. Raises OSError."""
    own = {dhcp.HOST_NAME: name.encode()} if name else {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, interface.encode())
        sock.bind(("", dhcp.CLIENT_PORT))
        client = bytes.fromhex(mac.replace(":", ""))
        offer = _exchange(sock, client, dhcp.DISCOVER, own, dhcp.OFFER)
        server = None if offer is None else offer.options.get(dhcp.SERVER_ID)
        if offer is None or server is None:
            return None
        chosen = own | {dhcp.REQUESTED_IP: offer.ip.packed, dhcp.SERVER_ID: server}
        return _lease(_exchange(sock, client, dhcp.REQUEST, chosen, dhcp.ACK))


def _exchange(sock: socket.socket, mac: bytes, kind: int, options: Mapping[int, bytes], wanted: int) -> Answer | None:
    xid = secrets.randbits(32)
    message = dhcp.question(kind, xid, mac, {**options, _PARAMETERS: WANTED})
    for wait_s in WAITS_S:
        sock.sendto(message, ("255.255.255.255", dhcp.SERVER_PORT))
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            sock.settimeout(left_s)
            try:
                answer = dhcp.read_answer(sock.recv(1 << 16))
            except TimeoutError:
                break
            if answer is not None and (answer.xid, answer.mac, answer.kind) == (xid, mac, wanted):
                return answer
    return None


def _lease(ack: Answer | None) -> Lease | None:
    if ack is None:
        return None
    mask, mtu = ack.options.get(dhcp.SUBNET_MASK, b""), ack.options.get(dhcp.MTU, b"")
    try:
        address = IPv4Interface(f"{ack.ip}/{IPv4Address(mask)}")
    except ValueError:
        return None
    routers, servers = _addresses(ack.options.get(dhcp.ROUTER, b"")), _addresses(ack.options.get(dhcp.DNS, b""))
    domain = ack.options.get(dhcp.DOMAIN_NAME, b"").decode(errors="replace")
    size = struct.unpack("!H", mtu)[0] if len(mtu) == 2 else None
    return Lease(address, routers[0] if routers else None, servers, domain if domain.isprintable() else "", size)


def _addresses(data: bytes) -> list[IPv4Address]:
    return [IPv4Address(data[at : at + 4]) for at in range(0, len(data) - 3, 4)]
