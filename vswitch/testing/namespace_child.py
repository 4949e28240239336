"""The first process of a namespace: it has a TAP device there, whose frames it carries to and from QEMU's stream.

Nothing is loaded but the standard library, so that it is there soon.
"""

import ctypes
import os
import select
import signal
import socket
import sys
from contextlib import suppress

from vswitch import interfaces

FRAME_MAX, READ_BYTES, PREFIX = 65600, 1 << 16, 4
READY = b"ready\n"


def main() -> None:
    descriptor, name, mac, address, mask = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the test's, which hangs up
    socket.sethostname(name)
    ctypes.CDLL(None).mount(b"sysfs", b"/sys", b"sysfs", 0, None)  # this network's; without it, the machine's stays
    tun = interfaces.make_tap("eth0")
    set_up(mac, address, mask)
    os.write(1, READY)
    with socket.socket(fileno=int(descriptor)) as stream:
        carry(stream, tun)


def set_up(mac: str, address: str, mask: str) -> None:
    """Has eth0, and loopback, be up. IPv6 is off, as nothing is to be on the wire that no test asked for."""
    interfaces.without_ipv6("eth0")
    interfaces.set_mac("eth0", mac)
    if address:
        interfaces.set_address("eth0", address, mask)
    for name in ("lo", "eth0"):
        interfaces.set_up(name)


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
