"""Network interfaces of this process's namespace, set up by ioctl (netdevice(7), Linux' networking/tuntap.rst).

Only the standard library is used, so that a namespace is there soon, and no program has to be there for it. What ioctl
does not do well, several addresses of both versions and bridges, is in endpoints/interface/netlink.py.
"""

import fcntl
import os
import socket
import struct
from contextlib import suppress

TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
_SIOCADDRT = 0x890B
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_SIOCGIFMTU, _SIOCSIFMTU, _SIOCSIFHWADDR, _SIOCGIFHWADDR = 0x8921, 0x8922, 0x8924, 0x8927
_IFF_UP = 1
_ARPHRD_ETHER = 1
_RTF_UP, _RTF_GATEWAY = 1, 2
# include/uapi/linux/route.h: struct rtentry
_RTENTRY = struct.Struct("L16s16s16sHhLPhPLLH0L")


def make_tap(name: str, *, has_header: bool = False) -> int:
    """The descriptor of a new TAP device: a frame a read, a frame a write, with a virtio-net header before it if it
    `has_header`. Raises OSError."""
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if has_header else 0)
    tap = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError:
        os.close(tap)
        raise
    return tap


def mac(name: str) -> str:
    """Raises OSError, as all of these do."""
    return _control(_SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))[18:24].hex(":")


def set_mac(name: str, mac: str) -> None:
    _control(_SIOCSIFHWADDR, struct.pack("16sH14s", name.encode(), _ARPHRD_ETHER, bytes.fromhex(mac.replace(":", ""))))


def set_address(name: str, address: str, mask: str) -> None:
    for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, mask)):
        _control(request, struct.pack("16s16s", name.encode(), _sockaddr(value)))


def mtu(name: str) -> int:
    (found,) = struct.unpack_from("i", _control(_SIOCGIFMTU, struct.pack("16s24x", name.encode())), 16)
    return int(found)


def set_mtu(name: str, mtu: int) -> None:
    _control(_SIOCSIFMTU, struct.pack("16si12x", name.encode(), mtu))


def set_up(name: str) -> None:
    """Does nothing to one that is up, which everybody may ask for."""
    (flags,) = struct.unpack_from("H", _control(_SIOCGIFFLAGS, struct.pack("16s16x", name.encode())), 16)
    if not flags & _IFF_UP:
        _control(_SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | _IFF_UP))


def set_gateway(address: str) -> None:
    """The way to everything else."""
    anywhere = _sockaddr("0.0.0.0")
    flags = _RTF_UP | _RTF_GATEWAY
    _control(_SIOCADDRT, _RTENTRY.pack(0, anywhere, _sockaddr(address), anywhere, flags, 0, 0, 0, 0, 0, 0, 0, 0))


def has_gateway() -> bool:
    """Whether there is a way to everything else already (proc_pid_net(5))."""
    with open("/proc/self/net/route") as file:
        return any(line.split()[1:2] == ["00000000"] for line in file)


def without_ipv6(name: str) -> None:
    """Has an interface say nothing by itself."""
    with suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:  # or there is no IPv6
        file.write("1")


def _control(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return fcntl.ioctl(control, request, argument)


def _sockaddr(address: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
