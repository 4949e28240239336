"""What scapy packets say, and what they do not say yet. No host, no I/O."""

from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Any

from vswitch.edges.packet_filter import PacketFilter
from vswitch.errors import InputError
from vswitch.testing.layers import BOOTP, ICMP, IP, Dot1Q, ICMPv6EchoRequest, IPv6, Net, Packet

ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST = 0, 8

Filter = str | Callable[[Packet], bool] | None
"""In the pcap language, or a function of a packet, or None for any."""


def link_local(mac: str) -> str:
    """The IPv6 link-local address that belongs to a MAC address (RFC 4291 section 2.5.1 and appendix A)."""
    eui48 = bytes.fromhex(mac.replace(":", ""))
    eui64 = bytes([eui48[0] ^ 2]) + eui48[1:3] + b"\xff\xfe" + eui48[3:]
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + eui64))


def ipv4(text: Any) -> IPv4Address:
    """Raises InputError for what is no IPv4 address, a name also."""
    try:
        return IPv4Address(str(text))
    except AddressValueError:
        raise InputError(f"{str(text)!r} is no IPv4 address; write numbers, no name") from None


def ipv6(text: Any) -> IPv6Address:
    """Raises InputError for what is no IPv6 address, a name also."""
    try:
        return IPv6Address(str(text))
    except AddressValueError:
        raise InputError(f"{str(text)!r} is no IPv6 address; write numbers, no name") from None


def echo_request(ip: str, number: int, sequence: int) -> Packet:
    if ":" in ip:
        return IPv6(dst=str(ipv6(ip))) / ICMPv6EchoRequest(id=number, seq=sequence, data=b"vswitch")
    return IP(dst=str(ipv4(ip))) / ICMP(type=ICMP_ECHO_REQUEST, id=number, seq=sequence) / b"vswitch"


def expanded(packet: Packet) -> list[Packet]:
    """Copies of the packets a packet stands for, with their volatile values settled. Raises InputError for names."""
    for layer in packet.iterpayloads():
        for field, value in layer.fields.items():
            if isinstance(value, Net) and value.net is not None:
                try:
                    ip_address(value.net)
                except ValueError:
                    raise InputError(f"{layer.name}: {field}: {value.net!r} is a name; write an address") from None
    return list(iter(packet))  # the packet itself has a length, and scapy would build it to know


def as_function(filter: Filter) -> Callable[[Packet], bool]:
    if filter is None:
        return lambda packet: True
    if isinstance(filter, str):
        matches = PacketFilter(filter).matches
        return lambda packet: matches(packet.original)

    def wants(packet: Packet) -> bool:
        try:
            return bool(filter(packet))
        except IndexError:  # `packet[TCP]` of one that has none
            return False

    return wants


def is_answer(packet: Packet, sent: Packet) -> bool:
    try:
        if BOOTP in sent and BOOTP in packet:  # their IP addresses do not fit
            return packet[BOOTP].op == 2 and bool(packet[BOOTP].answers(sent[BOOTP]))
        return bool(packet.answers(sent))
    except Exception:  # of a hostile frame
        return False


def is_missing(layer: Packet, field: str) -> bool:
    """Whether scapy would have to find a value. Some are given by the layer that follows."""
    return layer.fields.get(field) is None and layer.overloaded_fields.get(field) is None


def untagged(frame: Packet) -> tuple[list[Packet], Packet]:
    """A frame's VLAN tags, and what is behind them."""
    tags: list[Packet] = []
    inner = frame.payload
    while isinstance(inner, Dot1Q):  # Dot1AD is one too
        tags.append(inner)
        inner = inner.payload
    return tags, inner


def vlans_of(tags: list[Packet]) -> tuple[int, ...]:
    return tuple(tag.vlan for tag in tags if tag.vlan)  # 0 tells a priority only


def is_group(mac: str) -> bool:
    return bool(int(mac[:2], 16) & 1)


def mac_text(tail: bytes) -> str:
    return tail.hex(":")
