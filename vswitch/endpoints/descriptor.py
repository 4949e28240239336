"""fd://: what an inherited descriptor is, and the endpoint it makes."""

import os
import socket
import stat

from vswitch.endpoints.datagram.endpoint import Pair, UdpPeers, UnixPeers
from vswitch.endpoints.endpoint import Endpoint
from vswitch.endpoints.stream.endpoint import Connected, Listener
from vswitch.endpoints.tap import OpenTap, TapDevice, is_tap
from vswitch.endpoints.url import EndpointConfig, check_static
from vswitch.errors import InputError
from vswitch.ports.ports import Ports

FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


Usable = socket.socket | TapDevice


def usable(fd: int, url: str) -> Usable:
    """What a descriptor is; it is closed if nothing can be done with it. Raises InputError."""
    try:
        return TapDevice(fd) if is_tap(fd) else socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise InputError(f"{url}: neither a socket nor a TAP device") from None


def create(config: EndpointConfig, name: str, ports: Ports, sock: Usable | None = None) -> Endpoint:
    """The endpoint for descriptor `config.fd`, or for a socket or device that is open already.

    Raises InputError if it cannot be used; then it is left as it is.
    """
    if sock is None and config.fd >= 0 and is_tap(config.fd):
        os.set_inheritable(config.fd, False)
        sock = TapDevice(config.fd)
    if isinstance(sock, TapDevice):
        return OpenTap(config, name, ports, sock)
    sock = _own(sock, config) if sock is not None else _inherited(config)
    kind: type[Endpoint]
    if sock.type == socket.SOCK_STREAM:
        kind = Listener if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else Connected
    elif _is_connected(sock):
        kind = Pair
    else:
        kind = UnixPeers if sock.family == socket.AF_UNIX else UdpPeers
    endpoint = kind(config, name, ports, sock)
    endpoint.listens = not config.single and not _is_connected(sock)
    return endpoint


def _inherited(config: EndpointConfig) -> socket.socket:
    """The socket that the endpoint's descriptor is."""
    fd = config.fd
    if config.path and fd < 0:
        raise InputError(f"{config.url}: only a service manager names descriptors; write its number, like fd://3")
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise InputError(f"fd://{fd}: neither a socket nor a TAP device")
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise InputError(f"fd://{fd}: {error.strerror}; pass the descriptor on to vswitch, as with 3<&5") from None
    try:
        return _own(sock, config)
    finally:
        sock.detach()  # which nothing is left of if it is ours now


def _own(sock: socket.socket, config: EndpointConfig) -> socket.socket:
    """Take over a socket that peers can use. Raises InputError, and leaves it, if it is none."""
    fd = sock.fileno()
    if sock.type not in (socket.SOCK_STREAM, socket.SOCK_DGRAM) or sock.family not in FAMILIES:
        raise InputError(f"fd://{fd}: not a TCP, UDP or unix stream or datagram socket")
    if not _is_connected(sock):
        if sock.type == socket.SOCK_DGRAM and not _is_bound(sock):
            raise InputError(f"fd://{fd}: neither connected nor bound to an address")
        if sock.type == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise InputError(f"fd://{fd}: neither connected nor listening")
        if not config.single:
            check_static(config)
            if config.qmp is not None:
                raise InputError(
                    f"fd://{fd}: qmp: is one guest's, and here each peer gets its own port; add single=yes"
                )
    os.set_inheritable(fd, False)
    return socket.socket(fileno=sock.detach())


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _is_bound(sock: socket.socket) -> bool:
    address = sock.getsockname()
    return bool(address) if sock.family == socket.AF_UNIX else address[1] != 0
