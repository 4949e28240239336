"""The first process of a namespace: it has a TAP device there, whose frames it carries to and from QEMU's stream.

Only the standard library is used, so that it is there soon. Interfaces are set up by ioctl (netdevice(7), Linux'
networking/tuntap.rst), so that no program has to be there for it.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import sys
from contextlib import suppress

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFHWADDR = 0x8913, 0x8914, 0x8916, 0x891C, 0x8924
IFF_UP = 1
ARPHRD_ETHER = 1
FRAME_MAX, READ_BYTES, PREFIX = 65600, 1 << 16, 4
READY = b"ready\n"


def main() -> None:
    descriptor, name, mac, address, mask = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the test's, which hangs up
    socket.sethostname(name)
    ctypes.CDLL(None).mount(b"sysfs", b"/sys", b"sysfs", 0, None)  # this network's; without it, the machine's stays
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
    set_up(mac, address, mask)
    os.write(1, READY)
    with socket.socket(fileno=int(descriptor)) as stream:
        carry(stream, tun)


def set_up(mac: str, address: str, mask: str) -> None:
    """Has eth0, and loopback, be up. IPv6 is off, as nothing is to be on the wire that no test asked for."""
    with suppress(OSError), open("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "w") as file:  # or there is no IPv6
        file.write("1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        hardware = struct.pack("16sH14s", b"eth0", ARPHRD_ETHER, bytes.fromhex(mac.replace(":", "")))
        fcntl.ioctl(control, SIOCSIFHWADDR, hardware)
        for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, mask)):
            if value:
                inet = struct.pack("16sHH4s8x", b"eth0", socket.AF_INET, 0, socket.inet_aton(value))
                fcntl.ioctl(control, request, inet)
        for interface in (b"lo", b"eth0"):
            (flags,) = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s16x", interface)), 16)
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", interface, flags | IFF_UP))


def carry(stream: socket.socket, tun: int) -> None:
    """Until the stream ends. The switch always reads, so that it may be waited for."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    poll.register(tun, select.POLLIN)
    buffer = b""
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if tun in ready:
            frame = os.read(tun, FRAME_MAX)
            stream.sendall(len(frame).to_bytes(PREFIX) + frame)
        if stream.fileno() in ready:
            data = stream.recv(READ_BYTES)
            if not data:
                return
            buffer += data
            while len(buffer) >= PREFIX and len(buffer) >= (end := PREFIX + int.from_bytes(buffer[:PREFIX])):
                with suppress(OSError):  # too short, or the interface is down
                    os.write(tun, buffer[PREFIX:end])
                buffer = buffer[end:]


if __name__ == "__main__":
    try:
        main()
    except ConnectionError:
        sys.exit(0)
    except OSError as error:
        sys.exit(f"{error.filename or 'the interface'}: {error.strerror}")
