"""Hosts for tests: stations with an IPv4 address that answer ARP and echo requests, and can ping.

They are a few lines instead of a kernel, and need neither root nor QEMU. A host plugs in by a `Wire`, which the
stations of tests.peers are.
"""

import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, Self

import trio

from tests.frames import BROADCAST, mac
from tests.peers import TIMEOUT_S

READ_BYTES = 1 << 16
TRY_AGAIN_S = 1.0

ARP, IPV4 = 0x0806, 0x0800
REQUEST, REPLY = 1, 2
ICMP, ECHO_REPLY, ECHO_REQUEST = 1, 0, 8


class Wire(Protocol):
    """What a host is plugged in by."""

    async def send(self, *frames: bytes) -> None: ...

    async def receive(self, count: int) -> list[bytes]: ...


class Pipes:
    """A program that exchanges frames on its standard input and output, each with its length before it, as vde_plug
    does (vde2 src/lib/vdestream.c)."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = b""

    @classmethod
    @asynccontextmanager
    async def of(cls, command: Sequence[str]) -> AsyncIterator[Self]:
        """Runs the program; kills it in the end."""
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            yield cls(process)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    async def send(self, *frames: bytes) -> None:
        assert self.process.stdin is not None
        with trio.fail_after(TIMEOUT_S):
            await self.process.stdin.send_all(b"".join(len(frame).to_bytes(2) + frame for frame in frames))

    async def receive(self, count: int) -> list[bytes]:
        """The next `count` frames."""
        with trio.fail_after(TIMEOUT_S):
            return [await self._next_frame() for _ in range(count)]

    async def _next_frame(self) -> bytes:
        assert self.process.stdout is not None
        while len(self._buffer) < 2 or len(self._buffer) < 2 + int.from_bytes(self._buffer[:2]):
            data = await self.process.stdout.receive_some(READ_BYTES)
            assert data, "the program closed its output"
            self._buffer += data
        size = 2 + int.from_bytes(self._buffer[:2])
        frame, self._buffer = self._buffer[2:size], self._buffer[size:]
        return bytes(frame)


class Host:
    """A host that has `address`, and station `number`'s MAC address. It answers while `run` does."""

    def __init__(self, wire: Wire, address: str, number: int) -> None:
        self.address = address
        self.mac = mac(number)
        self._wire = wire
        self._ip = socket.inet_aton(address)
        self._neighbours: dict[bytes, int] = {}
        self._replies: set[tuple[bytes, bytes]] = set()  # who has sent a reply to an echo request, and its payload
        self._came = trio.lowlevel.ParkingLot()
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            try:
                (frame,) = await self._wire.receive(1)
            except trio.TooSlowError:  # nobody has asked anything for a while
                continue
            if int.from_bytes(frame[:6]) in (self.mac, BROADCAST):
                await self._take(frame)

    async def ping(self, address: str, payload: bytes = b"ping") -> None:
        """Returns when a host has answered; asks again now and then, as a network may lose what it likes."""
        there = socket.inet_aton(address)
        with trio.fail_after(TIMEOUT_S):
            while there not in self._neighbours:
                await self._send(self._arp(BROADCAST, REQUEST, there))
                await self._wait_until(lambda: there in self._neighbours)
            reply = (there, b"\0\7\0\1" + payload)
            while reply not in self._replies:
                await self._send(self._echo(ECHO_REQUEST, *reply))
                await self._wait_until(lambda: reply in self._replies)

    async def _wait_until(self, has_come: Callable[[], bool]) -> None:
        with trio.move_on_after(TRY_AGAIN_S):
            while not has_come():
                await self._came.park()

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            await self._wire.send(frame)

    async def _take(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14])
        if kind == ARP:
            operation, sender, sender_ip, target_ip = struct.unpack_from("!6xH6s4s6x4s", frame, 14)
            if target_ip == self._ip:
                self._neighbours[sender_ip] = int.from_bytes(sender)
                if operation == REQUEST:
                    await self._send(self._arp(self._neighbours[sender_ip], REPLY, sender_ip))
        elif kind == IPV4:
            size, protocol, sender_ip, target_ip = struct.unpack_from("!2xH5xB2x4s4s", frame, 14)
            if target_ip == self._ip and protocol == ICMP:
                operation, payload = frame[34], frame[38 : 14 + size]
                if operation == ECHO_REQUEST and sender_ip in self._neighbours:
                    await self._send(self._echo(ECHO_REPLY, sender_ip, payload))
                elif operation == ECHO_REPLY:
                    self._replies.add((sender_ip, payload))
        self._came.unpark_all()

    def _arp(self, destination: int, operation: int, target_ip: bytes) -> bytes:
        target = 0 if destination == BROADCAST else destination
        own = self.mac.to_bytes(6) + self._ip
        arp = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + own + target.to_bytes(6) + target_ip
        return self._frame(destination, ARP, arp)

    def _echo(self, operation: int, target_ip: bytes, payload: bytes) -> bytes:
        message = with_checksum(struct.pack("!BBH", operation, 0, 0) + payload, 2)
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, ICMP, 0) + self._ip + target_ip
        return self._frame(self._neighbours[target_ip], IPV4, with_checksum(header, 10) + message)

    def _frame(self, destination: int, kind: int, payload: bytes) -> bytes:
        return (destination.to_bytes(6) + self.mac.to_bytes(6) + kind.to_bytes(2) + payload).ljust(60, b"\0")


def with_checksum(data: bytes, at: int) -> bytes:
    """The data with its internet checksum (RFC 1071) at an offset where zeros are."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + (0xFFFF - total).to_bytes(2) + data[at + 2 :]
