"""IPv4 addresses of this machine that go: the kernel tells, by rtnetlink(7).

An interface that goes takes its addresses and its multicast memberships along. A socket that had joined is not told,
nor does it join again by itself when they are back: maybe at once, maybe by the same number.
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import trio

# Linux include/uapi/linux/rtnetlink.h and if_addr.h
_RTMGRP_IPV4_IFADDR = 0x10
_RTM_DELADDR = 21
_IFA_LOCAL = 2
_KIND = struct.Struct("=4xH")  # nlmsghdr: length, type, …
_ATTRIBUTE = struct.Struct("=HH4s")  # rtattr: length, type, and an address


@contextlib.contextmanager
def departures() -> Iterator[Callable[[str], Awaitable[None]]]:
    """What returns when an address has gone since this was entered, whether or not it is back.

    Where the system does not tell (gVisor, systemd's RestrictAddressFamilies=) that does not return.
    """
    with contextlib.ExitStack() as stack:
        told: socket.socket | None = None
        with contextlib.suppress(OSError):
            told = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
            told.setblocking(False)
            told.bind((0, _RTMGRP_IPV4_IFADDR))
        yield partial(_gone, told)


async def _gone(told: socket.socket | None, address: str) -> None:
    local = _ATTRIBUTE.pack(_ATTRIBUTE.size, _IFA_LOCAL, socket.inet_aton(address))
    while True:
        if told is None:
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(told)
        try:
            message = told.recv(65536)
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # too much was told at a time, and some of it is lost
                return
            continue
        if _KIND.unpack_from(message) == (_RTM_DELADDR,) and local in message:
            return
