"""A host made of scapy packets, for tests: it plugs into a virtual LAN where a guest would, and does what it is told.

Of its own accord a `ScapyHost` sends nothing: no gratuitous ARP, no router solicitation, no detection of duplicate
addresses. It answers what any host answers, ARP (RFC 826), echo requests (RFC 792, RFC 4443) and neighbour
solicitations (RFC 4861), so that it can be pinged; everything else is for the test to send and to expect.

*It stands apart from the machine it runs on.* scapy would fill a missing source address from the machine's interfaces
and look a missing destination up in its routes and, by real ARP requests, on its networks. So every such field is
filled here before scapy builds a packet. Names are scapy's own trap: `IP(dst="name")` asks DNS there and then.

*Time is trio's clock, chance is the generator that was given*, so under trio.testing.MockClock a test takes no time
and does the same each run. scapy's volatile values (`RandShort()`, `fuzz`) are the exception: seed the module `random`.

scapy is slow to import (0.2 s) and GPL: nothing outside of vswitch.testing imports it.
"""

import random
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Any, Protocol

import trio

from vswitch.errors import InputError, VSwitchError
from vswitch.testing.layers import (
    ARP,
    ICMP,
    IP,
    STP,
    Dot3,
    Ether,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    Packet,
    checksum,
    in6_chksum,
)
from vswitch.testing.packets import (
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    Filter,
    as_function,
    echo_request,
    expanded,
    ipv4,
    ipv6,
    is_answer,
    is_group,
    is_missing,
    link_local,
    mac_text,
    untagged,
    vlans_of,
)
from vswitch.testing.rogue import DhcpServer, RouterAdvertiser, Service

FRAME_MAX = 69632  # QEMU's NET_BUFSIZE
FRAME_MIN = 60  # without FCS (IEEE 802.3 clause 3.2.8); what a NIC pads to
HEADER = 14
PREFIX = 4
QUEUE_FRAMES = 1000
READ_BYTES = 1 << 16

RESOLVE_TRIES = 3
RESOLVE_TRY_S = 0.5

BROADCAST = "ff:ff:ff:ff:ff:ff"
BRIDGE_GROUP = "01:80:c2:00:00:00"
NO_MAC = "00:00:00:00:00:00"
WHO_HAS, IS_AT = 1, 2
PROTO_ICMP, PROTO_ICMPV6 = 1, 58
MORE_FRAGMENTS = 1
ND_HOP_LIMIT = 255  # which shows that a message comes from the link itself (RFC 4861 section 7.1)

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

Neighbour = tuple[tuple[int, ...], str]  # the VLANs it is in, from the outermost tag on, and its IP address


class Wire(Protocol):
    """What a host is plugged in by: as much as it needs of a trio.abc.Stream."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...


class HostUnreachable(VSwitchError):
    """Nobody answered for an address, or there is no way to it; the text tells which."""


class NobodyAnswered(HostUnreachable):
    """Nobody did, to ARP or neighbour discovery."""


class FramingError(VSwitchError):
    """What comes on the stream is not frames with their lengths before them."""


class _Call:
    """A packet that was sent and that a reply is wanted to."""

    def __init__(self, sent: Packet) -> None:
        self.sent = sent
        self.reply: Packet | None = None


class _Waiter:
    """A `recv` that nothing kept so far was good enough for."""

    def __init__(self, wants: Callable[[Packet], bool]) -> None:
        self.wants = wants
        self.came = trio.Event()
        self.packet: Packet | None = None
        self.error: Exception | None = None


class ScapyHost:
    """A host with the MAC address `mac` at the end of a stream that carries frames as QEMU sends them.

    `interface`: its IPv4 address and network, None to have none; `ip` is the address alone. `ip6` is the link-local
    address that belongs to the MAC address (RFC 4291 appendix A). `gateway`: the IPv4 address that packets leave the
    network by. `rng`: where ICMP ids come from; equal seeds make equal frames.

    `received` holds the packets that came and that no `recv` has taken, at most `queue_frames`; whatever their
    destination is, so also what a switch floods. `dropped` counts those that newer ones pushed out, `undecodable` the
    frames that scapy can make nothing of, `unanswered` the replies that were not sent as the stream was full. Packets
    are whole frames, from Ether (or Dot3) on; `packet.time` is trio's clock (seconds), `packet.original` the bytes.

    `answers`: set to False, the host answers nothing, not even ARP.

    Resources: the stream is the caller's to close. Everything happens while `run` does.
    Errors: InputError for a MAC or gateway address that is none.
    """

    def __init__(
        self,
        name: str,
        mac: str,
        interface: IPv4Interface | None,
        stream: Wire,
        rng: random.Random,
        *,
        gateway: str | None = None,
        queue_frames: int = QUEUE_FRAMES,
    ) -> None:
        if not _MAC.fullmatch(mac.lower()):
            raise InputError(f"host {name}: {mac!r} is no MAC address; write it as 02:00:00:00:00:01")
        if queue_frames < 1:
            raise InputError(f"host {name}: a queue of {queue_frames} frames holds nothing; 1 or more")
        self.name = name
        self.mac = mac.lower()
        self.interface = interface
        self.ip = str(interface.ip) if interface is not None else ""
        self.ip6 = link_local(self.mac)
        self.gateway = str(ipv4(gateway)) if gateway is not None else None
        self.answers = True
        self.received: deque[Packet] = deque(maxlen=queue_frames)
        self.dropped = 0
        self.undecodable = 0
        self.unanswered = 0
        self._stream = stream
        self._rng = rng
        self._sending = trio.Lock()
        self._torn = False
        self._services: list[Service] = []
        self._calls: list[_Call] = []
        self._answered = trio.lowlevel.ParkingLot()
        self._waiters: list[_Waiter] = []
        self._neighbours: dict[Neighbour, str] = {}
        self._neighbour_came = trio.lowlevel.ParkingLot()
        # Answers wait here, and not in `run`: two hosts that send much to each other would both end up in sending.
        self._answers_in, self._answers_out = trio.open_memory_channel[bytes](queue_frames)

    def __repr__(self) -> str:
        return f"<ScapyHost {' '.join(filter(None, [self.name, self.ip, self.mac]))}>"

    @property
    def neighbours(self) -> dict[str, str]:
        """The MAC addresses that ARP and neighbour discovery have told, by IP address, but those behind VLAN tags."""
        return {address: mac for (vlans, address), mac in self._neighbours.items() if not vlans}

    async def run(self) -> None:
        """Receive, and answer, until the stream ends or this is cancelled.

        Raises FramingError if a frame is announced that is longer than FRAME_MAX bytes. No frame makes this raise.
        """
        buffer = bytearray()
        async with _meanwhile(self._send_answers):
            while True:
                try:
                    data = await self._stream.receive_some(READ_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):  # a cable pulled
                    return
                if not data:
                    return
                buffer += data
                for frame in self._frames(buffer):
                    self._take(frame)
                    await trio.lowlevel.checkpoint()  # scapy is slow, and others want to run

    async def send(self, *packets: Packet | bytes) -> None:
        """Send packets, one after the other; returns when the stream has them all.

        A packet is a whole frame, or IP, IPv6, ARP and what else goes right into one. What is set in it stays. Missing
        source addresses are the host's, 0.0.0.0 if it has no IPv4 address; a missing destination MAC address is asked
        for by ARP or neighbour discovery, within the packet's VLAN tags. A packet that stands for several, such as one
        with a list of ports, is sent as those. Short ones are padded to 60 bytes. Bytes are sent as they are.

        Raises HostUnreachable if an address cannot be resolved, InputError for what is no frame, and
        trio.BrokenResourceError if the stream is gone, or a send was cancelled in the middle of a frame.
        """
        for packet in packets:
            if isinstance(packet, bytes):
                await self._transmit(self._framed(packet))
                continue
            for one in expanded(packet):
                await self._transmit(self._built(await self._complete(one)))

    async def sr1(self, packet: Packet, *, timeout: float = 2.0) -> Packet | None:  # noqa: ASYNC109
        """Send a packet and return the first answer, or None if none has come within `timeout` seconds.

        An answer is what scapy's `answers` says is one, so also an ICMP error about the packet; to DHCP, what has the
        same xid. The time runs from when the packet has left; resolving its destination comes before. Whatever
        answers is in `received` too. Raises what `send` raises, but for nobody who answers to an address: None, too.
        """
        pairs = await self._exchange((packet,), timeout, enough=1)
        return pairs[0][1] if pairs else None

    async def sr(self, *packets: Packet, timeout: float = 2.0) -> list[tuple[Packet, Packet]]:  # noqa: ASYNC109
        """Send packets and return those that were answered, as they were sent, each with its first answer.

        Returns when all are answered, or `timeout` seconds after the last one has left. Raises what `sr1` raises.
        """
        return await self._exchange(packets, timeout, enough=None)

    async def recv(self, filter: Filter = None, *, timeout: float = 2.0) -> Packet | None:  # noqa: ASYNC109
        """The first packet that a filter lets pass, or None if there is none within `timeout` seconds.

        `filter`: pcap-filter(7), or a function, or None for any packet. What came earlier is looked at first. The
        packet is taken out of `received`; no other `recv` gets it. Names in a pcap filter may ask DNS: use numbers.

        Raises InputError for a wrong filter, RefusedError if there is no libpcap, and what the function raises.
        """
        wants = as_function(filter)
        await trio.lowlevel.checkpoint()
        for index, packet in enumerate(self.received):
            if wants(packet):
                del self.received[index]
                return packet
        waiter = _Waiter(wants)
        self._waiters.append(waiter)
        try:
            with trio.move_on_after(timeout):
                await waiter.came.wait()
        except trio.Cancelled:
            if waiter.packet is not None:  # it came at this very moment
                self._keep(waiter.packet)
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        if waiter.error is not None:
            raise waiter.error
        return waiter.packet

    async def ping(self, ip: str, *, count: int = 1, timeout: float = 1.0) -> bool:  # noqa: ASYNC109
        """Send `count` echo requests, each after the reply to the one before or `timeout` seconds without one.

        Whether any was answered, as ping(8) has it; also False if the address cannot be resolved. Raises InputError
        if `ip` is no IPv4 or IPv6 address.
        """
        number = self._rng.randrange(1, 1 << 16)
        answered = False
        for sequence in range(1, count + 1):
            try:
                reply = await self.sr1(echo_request(ip, number, sequence), timeout=timeout)
            except HostUnreachable:
                return answered
            answered |= reply is not None and (ICMPv6EchoReply in reply or reply[ICMP].type == ICMP_ECHO_REPLY)
        return answered

    @asynccontextmanager
    async def dhcp_server(
        self,
        pool: str | Iterable[str],
        *,
        router: str | None = None,
        dns: str | Sequence[str] | None = None,
        lease_s: int = 3600,
        options: Sequence[tuple[Any, ...]] = (),
    ) -> AsyncGenerator[DhcpServer, None]:
        """Be a DHCP server within the `async with` block, honest or not; gives the `DhcpServer`, to look at.

        `pool`: `"10.0.0.100-10.0.0.150"`, or addresses. `router` and `dns` are addresses to tell, `lease_s` is in
        seconds, `options` further ones as scapy writes them. Raises InputError for what is no address, and if the
        host has no IPv4 address.
        """
        if self.interface is None:
            raise InputError(f"host {self.name}: a DHCP server needs an IPv4 address; give the host one")
        server = DhcpServer(self.mac, self.interface, pool, router=router, dns=dns, lease_s=lease_s, options=options)
        with _member(self._services, server):
            yield server

    @asynccontextmanager
    async def router_advertisement(
        self,
        prefix: str,
        *,
        interval: float = 1.0,
        lifetime_s: int = 1800,
        preference: str = "medium",
        prefix_lifetime_s: int = 86400,
        mtu: int | None = None,
        dns: str | Sequence[str] = (),
    ) -> AsyncGenerator[RouterAdvertiser, None]:
        """Advertise a router within the `async with` block; gives the `RouterAdvertiser`, to look at.

        One is sent at once, one every `interval` seconds (math.inf: no more), and one for each solicitation. `prefix`:
        `"2001:db8::/64"`. `lifetime_s`: of the router, in seconds, up to 65535; 0 says that it is none. `preference`:
        low, medium or high (RFC 4191). `dns`: addresses of name servers (RFC 8106). Raises InputError for what cannot
        be right.
        """
        advertiser = RouterAdvertiser(
            self.mac,
            self.ip6,
            prefix,
            lifetime_s=lifetime_s,
            preference=preference,
            prefix_lifetime_s=prefix_lifetime_s,
            mtu=mtu,
            dns=dns,
        )
        if not interval > 0:
            raise InputError(f"an interval of {interval} s between router advertisements is too short; more than 0")

        async def advertise() -> None:
            while True:
                await trio.sleep(interval)
                self._answer(advertiser.advertisement())

        self._answer(advertiser.advertisement())
        with _member(self._services, advertiser):
            async with _meanwhile(advertise):
                yield advertiser

    # -- receiving -------------------------------------------------------------------------------------------------

    def _frames(self, buffer: bytearray) -> Iterator[bytes]:
        """Cut whole frames off. Raises FramingError."""
        at = 0
        try:
            while len(buffer) >= at + PREFIX:
                size = int.from_bytes(buffer[at : at + PREFIX])
                if size > FRAME_MAX:
                    raise FramingError(f"host {self.name}: a frame of {size} bytes is announced; at most {FRAME_MAX}")
                if len(buffer) < at + PREFIX + size:
                    return
                at += PREFIX + size
                yield bytes(buffer[at - size : at])
        finally:
            del buffer[:at]

    def _take(self, frame: bytes) -> None:
        """Dissect a frame, do what a host does with it, and hand it to whoever waits for it. Raises nothing."""
        try:
            if len(frame) < HEADER:
                raise ValueError("too short")
            packet = Ether(frame)
        except Exception:  # scapy's dissectors raise what they like
            self.undecodable += 1
            return
        packet.time = trio.current_time()
        try:
            replies = self._react(packet)
        except Exception:
            self.undecodable += 1
            replies = []
        for reply in replies:
            self._answer(reply)
        for call in self._calls:
            if call.reply is None and is_answer(packet, call.sent):
                call.reply = packet
                self._answered.unpark_all()
                break
        for waiter in list(self._waiters):
            try:
                if not waiter.wants(packet):
                    continue
                waiter.packet = packet
            except Exception as error:  # of the test's own function, so it gets it
                waiter.error = error
            self._waiters.remove(waiter)
            waiter.came.set()
            if waiter.packet is not None:
                return
        self._keep(packet)

    def _keep(self, packet: Packet) -> None:
        self.dropped += len(self.received) == self.received.maxlen
        self.received.append(packet)

    def _react(self, packet: Packet) -> list[Packet]:
        if not isinstance(packet, Ether) or is_group(packet.src):
            return []
        if packet.dst != self.mac and not is_group(packet.dst):
            return []
        tags, inner = untagged(packet)
        vlans = vlans_of(tags)
        replies: list[Packet] = []
        if isinstance(inner, ARP):
            replies += self._take_arp(vlans, inner)
        elif isinstance(inner, IP):
            replies += self._take_ipv4(packet, inner)
        elif isinstance(inner, IPv6):
            replies += self._take_ipv6(vlans, packet, inner)
        if vlans:  # a host without VLANs of its own hears what it asked for, and answers nothing
            return []
        if not self.answers:
            replies.clear()
        for service in self._services:
            replies += service.take(packet, trio.current_time())
        return replies

    def _take_arp(self, vlans: tuple[int, ...], arp: ARP) -> list[Packet]:
        """RFC 826, "Packet Reception"."""
        if (arp.hwtype, arp.ptype, arp.hwlen, arp.plen) != (1, 0x0800, 6, 4):
            return []
        is_for_us = arp.pdst == (self.ip or "0.0.0.0")
        if arp.psrc != "0.0.0.0" and (is_for_us or (vlans, arp.psrc) in self._neighbours):
            self._learn(vlans, arp.psrc, arp.hwsrc)
        if arp.op != WHO_HAS or not is_for_us or not self.ip:
            return []
        reply = ARP(op=IS_AT, hwsrc=self.mac, psrc=self.ip, hwdst=arp.hwsrc, pdst=arp.psrc)
        return [Ether(src=self.mac, dst=arp.hwsrc) / reply]

    def _take_ipv4(self, frame: Packet, ip: IP) -> list[Packet]:
        """RFC 1122 section 3.2.2.6; what is not whole is not answered."""
        if frame.dst != self.mac or ip.dst != self.ip or ip.proto != PROTO_ICMP or ip.frag or ip.flags & MORE_FRAGMENTS:
            return []
        header, message = ip.original[: ip.ihl * 4], ip.original[ip.ihl * 4 : ip.len]
        if len(message) < 8 or message[0] != ICMP_ECHO_REQUEST or checksum(header) or checksum(message):
            return []
        number, sequence = int.from_bytes(message[4:6]), int.from_bytes(message[6:8])
        reply = ICMP(type=ICMP_ECHO_REPLY, id=number, seq=sequence) / message[8:]
        return [Ether(src=self.mac, dst=frame.src) / IP(src=self.ip, dst=ip.src) / reply]

    def _take_ipv6(self, vlans: tuple[int, ...], frame: Packet, ip: IPv6) -> list[Packet]:
        """RFC 4861 sections 7.2.3 to 7.2.5; RFC 4443 section 4.2."""
        message = ip.original[40 : 40 + ip.plen]
        if ip.nh != PROTO_ICMPV6 or in6_chksum(PROTO_ICMPV6, ip, message) != 0:  # type: ignore[no-untyped-call]
            return []
        asked = ip.payload
        if asked.__class__ is ICMPv6EchoRequest and frame.dst == self.mac and ip.dst == self.ip6:  # a reply is one too
            echo = ICMPv6EchoReply(id=asked.id, seq=asked.seq, data=message[8:])
            return [Ether(src=self.mac, dst=frame.src) / IPv6(src=self.ip6, dst=ip.src) / echo]
        if ip.hlim != ND_HOP_LIMIT:
            return []
        if isinstance(asked, ICMPv6ND_NA) and ICMPv6NDOptDstLLAddr in asked:
            self._learn(vlans, asked.tgt, asked[ICMPv6NDOptDstLLAddr].lladdr)
        if not isinstance(asked, ICMPv6ND_NS) or asked.tgt != self.ip6:
            return []
        if ip.src == "::":  # somebody wants to have the same address (RFC 4862 section 5.4)
            return [self._advertisement("ff02::1", "33:33:00:00:00:01", solicited=False)]
        if ICMPv6NDOptSrcLLAddr in asked:
            self._learn(vlans, ip.src, asked[ICMPv6NDOptSrcLLAddr].lladdr)
        return [self._advertisement(ip.src, frame.src, solicited=True)]

    def _advertisement(self, there: str, mac: str, *, solicited: bool) -> Packet:
        header = Ether(src=self.mac, dst=mac) / IPv6(src=self.ip6, dst=there, hlim=ND_HOP_LIMIT)
        told = ICMPv6ND_NA(tgt=self.ip6, R=0, S=int(solicited), O=1)
        return header / told / ICMPv6NDOptDstLLAddr(lladdr=self.mac)

    def _learn(self, vlans: tuple[int, ...], address: str, mac: str) -> None:
        if not is_group(mac):
            self._neighbours[vlans, address] = mac
            self._neighbour_came.unpark_all()

    # -- sending ---------------------------------------------------------------------------------------------------

    def _answer(self, packet: Packet) -> None:
        """Send as soon as the stream takes it, or never if too much waits for that."""
        try:
            self._answers_in.send_nowait(self._built(packet))
        except trio.WouldBlock:
            self.unanswered += 1

    async def _send_answers(self) -> None:
        try:
            while True:
                await self._transmit(await self._answers_out.receive())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # `run` sees the stream's end too

    async def _transmit(self, data: bytes) -> None:
        async with self._sending:
            if self._torn:
                raise trio.BrokenResourceError(f"host {self.name}: a send was cancelled in the middle of a frame")
            await trio.lowlevel.checkpoint_if_cancelled()  # from here on, who cancels this cuts a frame off
            try:
                await self._stream.send_all(data)
            except trio.Cancelled:
                self._torn = True
                raise

    def _built(self, packet: Packet) -> bytes:
        return self._framed(bytes(packet).ljust(FRAME_MIN, b"\0"))

    def _framed(self, frame: bytes) -> bytes:
        if len(frame) > FRAME_MAX:
            raise InputError(f"host {self.name}: a frame of {len(frame)} bytes is too long; at most {FRAME_MAX}")
        return len(frame).to_bytes(PREFIX) + frame

    async def _exchange(
        self,
        packets: Sequence[Packet],
        timeout: float,  # noqa: ASYNC109
        enough: int | None,
    ) -> list[tuple[Packet, Packet]]:
        calls: list[_Call] = []
        try:
            for packet in packets:
                for one in expanded(packet):
                    try:
                        call = _Call(await self._complete(one))
                    except NobodyAnswered:
                        continue
                    calls.append(call)
                    self._calls.append(call)
                    await self._transmit(self._built(call.sent))
            wanted = len(calls) if enough is None else min(enough, len(calls))
            with trio.move_on_after(timeout):
                while sum(call.reply is not None for call in calls) < wanted:
                    await self._answered.park()
        finally:
            for call in calls:
                self._calls.remove(call)
        return [(call.sent, call.reply) for call in calls if call.reply is not None]

    async def _complete(self, packet: Packet) -> Packet:
        """The packet as a frame in which no address is left for scapy to find. Changes a packet of our own only."""
        if not isinstance(packet, Ether | Dot3):
            if Ether not in packet.overload_fields:
                raise InputError(f"host {self.name}: {packet.name} does not go right into a frame; put Ether() before")
            packet = Ether() / packet
        first, *inner = packet.iterpayloads()
        for layer in (first, *inner):
            self._fill_source(layer)
        for layer in inner:  # frames within frames
            if isinstance(layer, Ether | Dot3) and is_missing(layer, "dst"):
                layer.dst = BROADCAST
        if is_missing(first, "dst"):
            first.dst = await self._destination(first)
        return packet

    def _fill_source(self, layer: Packet) -> None:
        if isinstance(layer, Ether | Dot3) and is_missing(layer, "src"):
            layer.src = self.mac
        elif isinstance(layer, IP) and is_missing(layer, "src"):
            layer.src = self.ip or "0.0.0.0"
        elif isinstance(layer, IPv6) and is_missing(layer, "src"):
            layer.src = self.ip6
        elif isinstance(layer, ARP):
            if is_missing(layer, "hwsrc"):
                layer.hwsrc = self.mac
            if is_missing(layer, "psrc"):
                layer.psrc = self.ip6 if layer.ptype == 0x86DD else self.ip or "0.0.0.0"

    async def _destination(self, frame: Packet) -> str:
        """The MAC address a frame goes to: the next hop's, or a group's, which is broadcast if nothing tells."""
        tags, inner = untagged(frame)
        if isinstance(inner, IP):
            return await self._ipv4_destination(tags, ipv4(inner.dst))
        if isinstance(inner, IPv6):
            address = ipv6(inner.dst)
            if address.is_multicast:
                return "33:33:" + mac_text(address.packed[-4:])  # RFC 2464 section 7
            return await self._resolve(tags, str(address))
        if isinstance(inner, ARP) and inner.op != WHO_HAS and inner.ptype == 0x0800:
            if not is_missing(inner, "hwdst") and inner.hwdst != NO_MAC:
                return str(inner.hwdst)
            return await self._ipv4_destination(tags, ipv4(inner.pdst))
        return BRIDGE_GROUP if STP in frame else BROADCAST

    async def _ipv4_destination(self, tags: list[Packet], address: IPv4Address) -> str:
        network = self.interface.network if self.interface is not None else None
        if int(address) == 0xFFFF_FFFF:
            return BROADCAST
        if address.is_multicast:
            return "01:00:5e:" + mac_text((int(address) & 0x7F_FFFF).to_bytes(3))  # RFC 1112 section 6.4
        if network is not None and network.prefixlen < 31 and address == network.broadcast_address:
            return BROADCAST
        if network is None or address in network:
            return await self._resolve(tags, str(address))
        if self.gateway is None:
            raise HostUnreachable(f"host {self.name}: {address} is not in {network}, and there is no gateway")
        return await self._resolve(tags, self.gateway)

    async def _resolve(self, tags: list[Packet], address: str) -> str:
        """An address's MAC address, kept or asked for (RFC 826; RFC 4861 section 7.2.2). Raises HostUnreachable."""
        key = (vlans_of(tags), address)
        is_ipv4 = ":" not in address
        for _ in range(RESOLVE_TRIES):
            if key in self._neighbours:
                break
            body = self._who_has(address) if is_ipv4 else self._solicitation(address)
            group = BROADCAST if is_ipv4 else "33:33:ff:" + mac_text(ipv6(address).packed[-3:])
            frame = Ether(src=self.mac, dst=group)
            for tag in tags:
                frame = frame / type(tag)(vlan=tag.vlan, prio=tag.prio)
            await self._transmit(self._built(frame / body))
            with trio.move_on_after(RESOLVE_TRY_S):
                while key not in self._neighbours:
                    await self._neighbour_came.park()
        if key not in self._neighbours:
            what = "ARP requests" if is_ipv4 else "neighbour solicitations"
            within = "".join(f" in VLAN {vlan}" for vlan in key[0])
            raise NobodyAnswered(f"host {self.name}: nobody answered {RESOLVE_TRIES} {what} for {address}{within}")
        return self._neighbours[key]

    def _who_has(self, address: str) -> Packet:
        return ARP(op=WHO_HAS, hwsrc=self.mac, psrc=self.ip or "0.0.0.0", hwdst=NO_MAC, pdst=address)

    def _solicitation(self, address: str) -> Packet:
        group = str(IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(ipv6(address)) & 0xFF_FFFF))
        header = IPv6(src=self.ip6, dst=group, hlim=ND_HOP_LIMIT)
        return header / ICMPv6ND_NS(tgt=address) / ICMPv6NDOptSrcLLAddr(lladdr=self.mac)


@asynccontextmanager
async def _meanwhile(task: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Run a task while the block runs. The block's own error comes out as it is, not in a group."""
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        try:
            yield
        except Exception as error:
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


@contextmanager
def _member(services: list[Service], service: Service) -> Generator[None, None, None]:
    services.append(service)
    try:
        yield
    finally:
        services.remove(service)
