"""tap://NAME — a TAP device, made if there is none of that name (Linux Documentation/networking/tuntap.rst).

The kernel leaves checksums, and cutting frames of 64 KB into segments, to us (dataplane/offload.py).

A device that outlives its users keeps what they have set: it is set anew when it is opened, as QEMU does
(net/tap-linux.c). One that is taken away is opened again when it is back; one that we had made is made again.
"""

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import msgspec
import trio

from vswitch.dataplane.offload import HEADER_SIZE
from vswitch.dataplane.tap_link import TapLink
from vswitch.endpoints.comeback import LOOK_S, serve_again
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.endpoints.interface import helper, program, setting
from vswitch.endpoints.interface.options import InterfaceOptions
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import RefusedError
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports

DEVICE = "/dev/net/tun"
SYSTEM_S = 10.0  # how long the system may take to set an interface up
IFUP_S = 30.0
IFDOWN_S = 1.0  # as a switch that is told to end does so within two seconds
PROGRAM_LOOK_S = 2.0  # how often to try again what runs a program

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Linux include/uapi/linux/if_tun.h
_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_IFF_TUN, _IFF_TAP, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0002, 0x0100, 0x1000, 0x4000
_TUNSETOFFLOAD, _TUNSETTXFILTER = 0x400454D0, 0x400454D1
_TUNDETACHFILTER = 0x401054D6
_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08  # TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN
# With an int: TUNSETSNDBUF, TUNSETVNETHDRSZ, TUNSETVNETBE, TUNSETVNETLE, TUNSETSTEERINGEBPF, TUNSETFILTEREBPF,
# TUNSETCARRIER
_SETTINGS = {
    0x400454D4: 2**31 - 1,
    0x400454D8: HEADER_SIZE,
    0x400454DE: 0,
    0x400454DC: 1,
    0x800454E0: -1,
    0x800454E1: -1,
    0x400454E2: 1,
}


class Tap(Endpoint):
    """One port, and an interface of this machine, which is set up as `config.tap` says whenever its device is opened.

    What is sent while the interface is down is dropped.
    """

    _port: SwitchPort | None = None
    _made = False  # by us: whoever takes the device away, it is made again

    async def run(self, started: Callable[[], None]) -> None:
        options = self.config.tap.absolute()
        self._made = not _exists(self.config.path)
        runs_programs = options.helper is not None or options.ifup is not None
        look_s = PROGRAM_LOOK_S if runs_programs else LOOK_S
        try:
            await serve_again(
                self.name, f"the interface of {self.url}", partial(self._serve, options), started, look_s=look_s
            )
        finally:
            if self._port is not None:
                self.ports.remove(self._port)

    async def _serve(self, options: InterfaceOptions, started: Callable[[], None]) -> None:
        is_new = options.helper is None and not _exists(self.config.path)
        with closing(await self._open(options)) as tap:
            name = interface_of(tap.fileno())
            await self._prepare(name, self._wanted(options, is_new))
            self._port = self._port or self.ports.add(self.name, self.name, self.config)
            lost = trio.Event()
            link = TapLink(tap, self._port.port, self.ports.bridge)
            self.ports.links.plug(self._port, link, f"interface {name}", lost.set, is_guest=False, is_uplink=True)
            try:
                started()
                await lost.wait()
            finally:
                if options.ifdown is not None and not lost.is_set():
                    await self._say_goodbye(options.ifdown, name)
                self.ports.links.unplug(self._port, "removed")

    async def _open(self, options: InterfaceOptions) -> "TapDevice":
        """Raises RefusedError."""
        name = self.config.path
        if options.helper is None:
            if not self._made and not _exists(name):
                raise RefusedError(f"{self.url}: there is no such interface")
            return open_tap(name, offload=options.offload)
        try:
            fd = await helper.run(options.helper, options.br)
        except RefusedError as error:
            raise RefusedError(f"{self.url}: {error}") from None
        os.set_inheritable(fd, False)
        if not is_tap(fd):
            os.close(fd)
            raise RefusedError(f"{self.url}: helper: what it hands over is no TAP device")
        tap = TapDevice(fd)
        _set_up(tap, offload=options.offload)
        return tap

    def _wanted(self, options: InterfaceOptions, is_new: bool) -> InterfaceOptions:
        if not is_new or options.mac is not None:
            return options
        return msgspec.structs.replace(options, mac=setting.own_mac(self.ports.switch, self.name))

    async def _prepare(self, name: str, options: InterfaceOptions) -> None:
        """Have the interface be as it is asked to be. Raises RefusedError."""
        try:
            await _in_thread(setting.apply, name, options)
            if options.ifup is not None:
                await program.run_script("ifup", options.ifup, name, IFUP_S)
            if not await _in_thread(setting.bring_up, name):
                log.warning("%s: %s is down; have root run: ip link set %s up", self.name, name, name)
        except RefusedError as error:
            raise RefusedError(f"{self.url}: {error}") from None

    async def _say_goodbye(self, ifdown: str, name: str) -> None:
        with trio.CancelScope(shield=True):
            try:
                await program.run_script("ifdown", ifdown, name, IFDOWN_S)
            except RefusedError as error:
                log.warning("%s: %s", self.name, error)


class OpenTap(Endpoint):
    """fd:// with a TAP device that somebody else has made, in whichever network namespace. It goes when that goes."""

    can_start_again = False

    def __init__(self, config: EndpointConfig, name: str, ports: Ports, tap: "TapDevice") -> None:
        super().__init__(config, name, ports)
        self._tap = tap.move()

    async def run(self, started: Callable[[], None]) -> None:
        with closing(self._tap):
            _set_up(self._tap)
            port = self.ports.add(self.name, self.name, self.config)
            try:
                lost = trio.Event()
                link = TapLink(self._tap, port.port, self.ports.bridge)
                self.ports.links.plug(port, link, "a TAP device", lost.set, is_guest=False, is_uplink=True)
                started()
                await lost.wait()
                self.ports.links.unplug(port, "removed")
            finally:
                self.ports.remove(port)


class TapDevice:
    """An open TAP device, with a header before each frame if it is to leave work to us."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.has_header = bool(flags_of(fd) & _IFF_VNET_HDR)
        self.offloads = False  # leaves work to us, and takes frames with work left to do

    def fileno(self) -> int:
        return self._fd

    def move(self) -> "TapDevice":
        """The same, to close instead of this one."""
        moved = TapDevice(self._fd)
        moved.offloads = self.offloads
        self._fd = -1
        return moved

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_tap(fd: int) -> bool:
    """Whether a descriptor is a TAP device without the old header, `struct tun_pi`, before its frames."""
    try:
        flags = flags_of(fd)
    except OSError:
        return False
    return flags & (_IFF_TUN | _IFF_TAP | _IFF_NO_PI) == _IFF_TAP | _IFF_NO_PI


def flags_of(fd: int) -> int:
    """Raises OSError if it is no TUN or TAP device that is attached."""
    (flags,) = struct.unpack_from("H", fcntl.ioctl(fd, _TUNGETIFF, bytes(40)), 16)
    return int(flags)


def interface_of(fd: int) -> str:
    """The name of a TAP device's interface. Raises RefusedError if that is gone already."""
    try:
        return fcntl.ioctl(fd, _TUNGETIFF, bytes(40))[:16].rstrip(b"\0").decode()
    except OSError as error:
        raise RefusedError(f"the device is gone: {error.strerror}") from None


def open_tap(name: str, *, offload: bool = True) -> TapDevice:
    """Open a TAP device, which may leave work to us, and make it if need be. Raises RefusedError."""
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = f"; have root run: chmod 666 {DEVICE}" if error.errno == errno.EACCES else ""
        raise RefusedError(f"tap://{name}: cannot open {DEVICE}: {error.strerror}{hint}") from None
    try:
        _attach(fd, name)
    except OSError as error:
        os.close(fd)
        raise RefusedError(f"tap://{name}: {error.strerror}{_hint(name, error.errno)}") from None
    tap = TapDevice(fd)
    _set_up(tap, offload=offload)
    return tap


def _attach(fd: int, name: str) -> None:
    """Raises OSError."""
    for queues in (0, _IFF_MULTI_QUEUE):  # a device that can have several queues is opened only as such
        try:
            fcntl.ioctl(
                fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | queues)
            )
        except OSError as error:
            if error.errno != errno.EINVAL or queues:
                raise
        else:
            return


def _set_up(tap: TapDevice, *, offload: bool = True) -> None:
    """Have a device be as we use it, whatever its last user has set."""
    fd = tap.fileno()
    for request, value in _SETTINGS.items():
        with suppress(OSError):  # this kernel does not know it yet
            fcntl.ioctl(fd, request, array.array("i", [value]))
    for request, nothing in ((_TUNSETTXFILTER, bytes(4)), (_TUNDETACHFILTER, bytes(16))):
        with suppress(OSError):
            fcntl.ioctl(fd, request, nothing)
    tap.offloads = tap.has_header and offload
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS if tap.offloads else 0)


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _hint(name: str, number: int | None) -> str:
    """What to do about it. The system has one word for several things; what the interface is tells them apart."""
    if number == errno.EPERM and _exists(name):
        owner = _attribute(name, "owner")
        whose = f"user {owner}'s" if owner not in ("", "-1") else "root's"
        return f"; it is {whose}: use another name, or have root run: ip link delete {name}"
    if number == errno.EPERM:
        return f"; have root run: ip tuntap add {name} mode tap user {os.geteuid()}"
    if number == errno.EBUSY:
        return "; another program has it open: use another name"
    if number == errno.E2BIG:
        return "; all its queues are in use: use another name"
    if number == errno.EINVAL:
        flags = _attribute(name, "tun_flags")
        kind = "a TUN device" if flags and int(flags, 16) & _IFF_TUN else "no TAP device"
        return f"; it is {kind}: use another name"
    return ""


def _attribute(name: str, attribute: str) -> str:
    """Of an interface, as sysfs has it; empty if that is of another network namespace, or not there."""
    with suppress(OSError):
        return (Path("/sys/class/net") / name / attribute).read_text().strip()
    return ""


async def _in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """What the system does one at a time, whoever asks. Raises RefusedError if that takes long."""
    try:
        with trio.fail_after(SYSTEM_S):
            return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)
    except trio.TooSlowError:
        raise RefusedError(f"the system has not set it up within {SYSTEM_S:g} s") from None
