"""tap://NAME — a TAP device, made if there is none of that name (Linux Documentation/networking/tuntap.rst)."""

import errno
import fcntl
import os
import struct
from collections.abc import Callable

import trio

from vswitch.dataplane.datagram import DeviceLink
from vswitch.endpoints.endpoint import Endpoint
from vswitch.errors import RefusedError

DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA  # Linux include/uapi/linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000


class Tap(Endpoint):
    """One port. What is sent while the interface is down is dropped."""

    async def run(self, started: Callable[[], None]) -> None:
        tap = open_tap(self.config.path)
        try:
            port = self.ports.add(self.name, self.name, self.config)
            try:
                link = DeviceLink(tap, port.port, self.ports.bridge)
                self.ports.plug(port, link, f"interface {self.config.path}", lambda: None)
                started()
                await trio.sleep_forever()
            finally:
                self.ports.remove(port)
        finally:
            tap.close()


class TapDevice:
    """An open TAP device: a frame a read, a frame a write."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def setblocking(self, blocking: bool) -> None:
        os.set_blocking(self._fd, blocking)

    def recv(self, size: int) -> bytes:
        return os.read(self._fd, size)

    def send(self, frame: bytes) -> int:
        return os.write(self._fd, frame)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_tap(name: str) -> TapDevice:
    """Open a TAP device, and make it if need be. Raises RefusedError."""
    try:
        tap = TapDevice(os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        hint = f"; have root run: chmod 666 {DEVICE}" if error.errno == errno.EACCES else ""
        raise RefusedError(f"tap://{name}: cannot open {DEVICE}: {error.strerror}{hint}") from None
    try:
        fcntl.ioctl(tap.fileno(), _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        tap.close()
        hint = ""
        if error.errno == errno.EPERM:
            hint = f"; have root run: ip tuntap add {name} mode tap user {os.geteuid()}"
        elif error.errno == errno.EBUSY:
            hint = "; another program has it open"
        elif error.errno == errno.EINVAL:
            hint = "; it is no TAP device, use another name"
        raise RefusedError(f"tap://{name}: {error.strerror}{hint}") from None
    return tap
