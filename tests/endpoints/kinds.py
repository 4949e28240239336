"""The kinds of endpoints for the conformance test: how each is attached, and how its peers come, go and come back."""

import itertools
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import trio

from tests.certificates import authority
from tests.frames import frame, mac
from tests.peers import TIMEOUT_S, DatagramPeer, Peer
from vswitch import VSwitch
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.protocols import l2tpv3, vxlan
from vswitch.switch import Attachment

UDP_MAX = 65507  # what IPv4 leaves of 65535 bytes; IPv6 does not count its header
UDP6_MAX = 65527
WHOLE_UDP6_MAX = 65488  # that loopback carries without fragments
MAGIC = 0xFEEDFACE
SUN_PATH = 108
LLDP = 0x0180_C200_000E
HELLO = frame(LLDP, mac(0xABCDEF))  # says that somebody is there; bridges do not pass it on
GROUP = "239.255.77.1"
BUFFER = 1 << 22

Loss = Literal["at once", "when looked for", "when sent to", "never"]


class Station(Protocol):
    """A peer."""

    async def send(self, *frames: bytes) -> None: ...
    async def receive(self, count: int) -> list[bytes]: ...
    def vanish(self) -> None: ...
    def close(self) -> None: ...


class Kind(ABC):
    """One way in, attached as `lab`."""

    many = False  # whether each peer gets a port of its own, `lab.1` …; otherwise `lab` is the port
    frame_max = FRAME_MAX
    oversize = False  # whether a peer can send more than that
    loss: Loss = "at once"  # when it is noticed that a peer has gone
    comes_back = True
    waits = True  # whether a peer that does not read is noticed, and frames are queued for it
    apart = True  # whether such a peer holds up no other of the endpoint

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = AsyncExitStack()
        self.here = ""  # the URL of `lab`

    @abstractmethod
    async def target(self) -> str | socket.socket:
        """What is to be attached."""

    @abstractmethod
    async def station(self) -> Station:
        """A peer plugs in."""

    async def attach(self, switch: VSwitch, **parameters: object) -> Attachment:
        lab = await switch.attach(await self.target(), name="lab", **parameters)
        self.here = lab.url
        return lab

    async def plug(self) -> Station:
        station = await self.station()
        self.stack.callback(station.close)
        return station

    async def lose(self, station: Station) -> None:
        """The peer is killed."""
        station.vanish()

    def path(self, name: str) -> Path:
        """Where a peer may put a socket; it is gone at the end."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        self.stack.callback(path.unlink, missing_ok=True)
        return path

    async def __aenter__(self) -> Self:
        await self.stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stack.__aexit__(kind, error, traceback)


# Streams


class Listens(Kind):
    """tcp:// and unix://."""

    def __init__(self, directory: Path, url: str, single: bool = False) -> None:
        super().__init__(directory)
        self._url = url.format(directory)
        self._single = single
        self.many = not single

    async def target(self) -> str | socket.socket:
        return self._url + ("?single=yes" if self._single else "")

    async def station(self) -> Peer:
        return await Peer.connected_to(self.here)


class InheritedListener(Listens):
    """fd:// of a socket that listens."""

    async def target(self) -> socket.socket:
        if self._url.startswith("unix"):
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(bytes(self.path("lan.sock")))
        else:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
        sock.listen()
        self._port = sock.getsockname()[1]
        return sock

    async def attach(self, switch: VSwitch, **parameters: object) -> Attachment:
        lab = await super().attach(switch, single=self._single, **parameters)
        self.here = self._url.replace(":0", f":{self._port}")
        return lab


class Connects(Kind):
    """tcp:// and unix:// with `connect`: a QEMU that listens, which is killed and started again."""

    def __init__(self, directory: Path, family: socket.AddressFamily) -> None:
        super().__init__(directory)
        self._family = family
        self._listener: trio.SocketListener | None = None
        self._address: Any = os.fspath(directory / "vm.sock")

    async def target(self) -> str:
        if self._family == socket.AF_UNIX:
            return f"unix://{self._address}?connect"
        reserved = self.stack.enter_context(socket.socket(self._family))
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("::1" if self._family == socket.AF_INET6 else "127.0.0.1", 0))
        self._address = reserved.getsockname()
        host, port = self._address[:2]
        return f"tcp://[{host}]:{port}?connect" if ":" in host else f"tcp://{host}:{port}?connect"

    async def station(self) -> Peer:
        if self._listener is None:
            sock = self.stack.enter_context(socket.socket(self._family))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._family == socket.AF_UNIX:
                self.path("vm.sock")
            sock.bind(self._address)
            sock.listen(1)
            self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            self.stack.push_async_callback(self._listener.aclose)
        with trio.fail_after(TIMEOUT_S):
            return Peer(await self._listener.accept())

    async def lose(self, station: Station) -> None:
        assert self._listener is not None
        await self._listener.aclose()
        self._listener = None
        station.vanish()


class ListensTls(Listens):
    """tcp:// with `tls`: another program that has a certificate."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "tcp://127.0.0.1:0")

    async def target(self) -> str:
        return f"{self._url}?tls={authority().files('switch')}"

    async def station(self) -> Peer:
        return await tls_peer(await super().station(), "peer", server_side=False)


class ConnectsTls(Connects):
    """tcp:// with `connect` and `tls`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, socket.AF_INET)

    async def target(self) -> str:
        return f"{await super().target()}&tls={authority().files('switch')}"

    async def station(self) -> Peer:
        return await tls_peer(await super().station(), "peer", server_side=True)


async def tls_peer(peer: Peer, name: str, *, server_side: bool) -> Peer:
    """A peer once it has a TLS connection, over the one that it had."""
    stream = trio.SSLStream(
        peer.stream,
        authority().context(name, server_side=server_side),
        server_hostname="127.0.0.1",
        server_side=server_side,
    )
    with trio.fail_after(TIMEOUT_S):
        await stream.do_handshake()
    return Peer(peer.stream, stream)


class StreamPair(Kind):
    """fd:// of a socket that is connected."""

    comes_back = False

    async def target(self) -> str:
        here, there = socket.socketpair()
        self._peer = Peer.at(here)
        return f"fd://{there.detach()}"

    async def station(self) -> Peer:
        return self._peer


# Datagrams


def udp_socket(host: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.bind((host, port))
    return sock


def udp_url(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Udp(Kind):
    """udp:// that listens: `dgram` with a local port that the system chose."""

    frame_max = UDP_MAX
    many = True
    loss: Loss = "when looked for"
    waits = False

    def __init__(self, directory: Path, host: str) -> None:
        super().__init__(directory)
        self._host = host
        self._there: Any = None
        if ":" in host:
            self.frame_max = UDP6_MAX

    async def target(self) -> str | socket.socket:
        return f"udp://{udp_url((self._host, 0))}"

    async def attach(self, switch: VSwitch, **parameters: object) -> Attachment:
        lab = await super().attach(switch, **parameters)
        if lab.config.scheme != "fd":
            self._there = (self._host, lab.config.port)
        return lab

    async def station(self) -> DatagramPeer:
        peer = DatagramPeer(udp_socket(self._host), to=self._there)
        await peer.send(HELLO)
        return peer


class InheritedUdp(Udp):
    """fd:// of a UDP socket that is bound."""

    async def target(self) -> socket.socket:
        sock = udp_socket(self._host)
        self._there = sock.getsockname()
        return sock


class UdpRemote(Udp):
    """udp:// with `remote`: `socket,udp=` and `dgram`, both ends agreed on."""

    many = False

    async def target(self) -> str | socket.socket:
        with udp_socket(self._host) as free:
            self._remote = free.getsockname()
        return f"udp://{udp_url((self._host, 0))}?remote={udp_url(self._remote)}"

    async def station(self) -> DatagramPeer:
        return DatagramPeer(udp_socket(*self._remote[:2]), to=self._there)


class UdpConnected(UdpRemote):
    """fd:// of a UDP socket that is connected. Whether anybody is there does not matter to it."""

    loss = "never"

    async def target(self) -> socket.socket:
        with udp_socket(self._host) as free:
            self._remote = free.getsockname()
        sock = udp_socket(self._host)
        sock.connect(self._remote)
        self._there = sock.getsockname()
        return sock


class Group(Kind):
    """mcast://: a port that is up whoever is there. Members send from the group's port, as QEMU does."""

    frame_max = UDP_MAX
    loss: Loss = "never"
    waits = False

    async def target(self) -> str:
        with udp_socket("127.0.0.1") as free:
            self._port = free.getsockname()[1]
        return f"mcast://{GROUP}:{self._port}"

    async def station(self) -> DatagramPeer:
        return member(self._port)


def member(port: int, group: str = GROUP, here: str = "127.0.0.1") -> DatagramPeer:
    """A member of a group, as QEMU with `localaddr=` is one, or without if `here` is 0.0.0.0."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.bind((group, port))
    interface = socket.inet_aton(here)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + interface)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    return DatagramPeer(sock, to=(group, port), echoes=True)


class Unixgram(Kind):
    """unixgram:// that listens. A peer may fix its socket's other end, so that nobody else can send to it."""

    many = True
    oversize = True
    loss: Loss = "when sent to"

    def __init__(self, directory: Path, fixed: bool = False) -> None:
        super().__init__(directory)
        self._fixed = fixed
        self.apart = not fixed  # the kernel lets only our shared socket send to it
        self._there = os.fspath(directory / "lan.sock")
        self._numbers = itertools.count()

    async def target(self) -> str | socket.socket:
        return f"unixgram://{self._there}"

    def _station(self, path: Path) -> DatagramPeer:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(bytes(path))
        if not self._fixed:
            return DatagramPeer(sock, to=self._there)
        sock.connect(self._there)
        return DatagramPeer(sock)

    async def station(self) -> DatagramPeer:
        peer = self._station(self.path(f"vm{next(self._numbers)}.sock"))
        await peer.send(HELLO)
        return peer


class InheritedUnixgram(Unixgram):
    """fd:// of a unix datagram socket that is bound."""

    async def target(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path("lan.sock")
        sock.bind(self._there)
        return sock


class UnixgramRemote(Unixgram):
    """unixgram:// with `remote`: `dgram` with two paths."""

    many = False

    async def target(self) -> str:
        return f"unixgram://{self._there}?remote={self.directory}/vm.sock"

    async def station(self) -> DatagramPeer:
        return self._station(self.path("vm.sock"))


class DatagramPair(Kind):
    """fd:// of one end of a socket pair."""

    oversize = True
    loss: Loss = "when sent to"
    comes_back = False

    async def target(self) -> str:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._peer = DatagramPeer(here)
        return f"fd://{there.detach()}"

    async def station(self) -> DatagramPeer:
        return self._peer


# Tunnels


class TunnelPeer(DatagramPeer):
    """The other end of a tunnel: a header, `sent` or `wanted`, before each frame."""

    def __init__(self, sock: socket.socket, *, to: Any, sent: bytes, wanted: bytes) -> None:
        super().__init__(sock, to=to)
        self._sent = sent
        self._wanted = wanted

    async def send(self, *frames: bytes) -> None:
        await super().send(*(self._sent + frame for frame in frames))

    async def receive(self, count: int) -> list[bytes]:
        datagrams = await super().receive(count)
        assert all(datagram.startswith(self._wanted) for datagram in datagrams)
        return [datagram[len(self._wanted) :] for datagram in datagrams]


VNI = 0xABCDEF


class Vxlan(Udp):
    """vxlan:// that learns: each host that sends is a port. They are hosts of their own by their addresses."""

    loss: Loss = "never"  # when it has been silent for long
    comes_back = False  # another one has another address

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        super().__init__(directory, host)
        self.frame_max = (WHOLE_UDP6_MAX if ":" in host else UDP_MAX) - vxlan.HEADER
        self._numbers = itertools.count(2)

    async def target(self) -> str | socket.socket:
        return f"vxlan://{udp_url((self._host, 0))}?vni={VNI}&learn&loop=off"  # no probes, which uplinks get

    async def station(self) -> TunnelPeer:
        sock = udp_socket(f"127.0.0.{next(self._numbers)}", self._there[1])
        peer = TunnelPeer(sock, to=self._there, sent=vxlan.header(VNI), wanted=vxlan.header(VNI))
        await peer.send(HELLO)
        return peer


class VxlanRemote(Vxlan):
    """vxlan:// with `remote`."""

    many = False
    comes_back = True

    async def target(self) -> str:
        with udp_socket(self._host) as free:
            self._remote = free.getsockname()
        return f"vxlan://{udp_url((self._host, 0))}?vni={VNI}&remote={udp_url(self._remote)}&loop=off"

    async def station(self) -> TunnelPeer:
        sock = udp_socket(*self._remote[:2])
        return TunnelPeer(sock, to=self._there, sent=vxlan.header(VNI), wanted=vxlan.header(VNI))


OURS = l2tpv3.Session(7, 0xFFFF_FFF0, b"\x8b\xad\xf0\x0d", b"\xff" * 8, sequence=True, numbers=False, offset=3)
THEIRS = OURS._replace(tx=OURS.rx, rx=OURS.tx, tx_cookie=OURS.rx_cookie, rx_cookie=OURS.tx_cookie)


class L2tpv3(UdpRemote):
    """l2tpv3:// over UDP, with all there may be in a header."""

    def __init__(self, directory: Path, host: str) -> None:
        super().__init__(directory, host)
        self.frame_max = (WHOLE_UDP6_MAX if ":" in host else UDP_MAX) - OURS.overhead

    async def target(self) -> str | socket.socket:
        url = str(await super().target()).replace("udp://", "l2tpv3://")
        cookies = f"txcookie={OURS.tx_cookie.hex()}&rxcookie={OURS.rx_cookie.hex()}"
        return f"{url}&session={OURS.tx}&rxsession={OURS.rx}&{cookies}&pincounter&offset={OURS.offset}"

    async def station(self) -> TunnelPeer:
        sock = udp_socket(*self._remote[:2])
        return TunnelPeer(sock, to=self._there, sent=l2tpv3.header(THEIRS), wanted=l2tpv3.header(OURS))


# VDE


def sockaddr_un(path: bytes) -> bytes:
    return struct.pack(f"=H{SUN_PATH}s", socket.AF_UNIX, path)


def vde_request(path: bytes, *, version: int = 3, kind: int = 0, description: bytes = b"test") -> bytes:
    """What a client asks for: `kind` is 0 and the port's number in its upper bytes, or 1 for port 0."""
    if version == 1:
        return struct.pack("=II6s", MAGIC, kind, bytes(6)) + sockaddr_un(path) + description
    return struct.pack("=III", MAGIC, version, kind) + sockaddr_un(path) + description


async def vde_plug(
    directory: Path, path: Path, *, version: int = 3, kind: int = 0, description: bytes = b"test"
) -> DatagramPeer:
    """A client of a VDE switch, whose own socket is at `path`."""
    ctl = await trio.open_unix_socket(directory / "ctl")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(bytes(path))
    peer = DatagramPeer(sock, ctl=ctl)
    with trio.fail_after(TIMEOUT_S):
        await ctl.send_all(vde_request(bytes(path), version=version, kind=kind, description=description))
        reply = await ctl.receive_some(4096)
    assert len(reply) == 2 + SUN_PATH
    assert reply[:2] == struct.pack("=H", socket.AF_UNIX)
    sock.connect(reply[2:].rstrip(b"\0"))
    return peer


class Vde(Kind):
    """vde://: a switch. Its clients have their sockets in its directory, and leave them there when they are killed."""

    many = True
    oversize = True

    def __init__(self, directory: Path, version: int) -> None:
        super().__init__(directory)
        self._version = version
        self._lan = directory / "lan.vde"
        self._numbers = itertools.count()

    async def target(self) -> str:
        return f"vde://{self._lan}"

    async def station(self) -> DatagramPeer:
        path = self._lan / f".{os.getpid():05d}-{next(self._numbers):05d}"
        return await vde_plug(self._lan, path, version=self._version)


class VdeUplink(Kind):
    """vde:// with `connect`, to another VSwitch, which goes and comes back. The peer is a station over there."""

    waits = False  # it is the other switch that queues

    async def __aenter__(self) -> Self:
        self._far = await VSwitch("far").__aenter__()
        self._attached: list[Attachment] = []
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        await self._far.__aexit__(kind, error, traceback)

    async def target(self) -> str:
        return f"vde://{self.directory}/lan.vde?connect"

    async def station(self) -> Peer:
        here, there = socket.socketpair()
        self._attached = [await self._far.attach(target) for target in (there, f"vde://{self.directory}/lan.vde")]
        return Peer.at(here)

    async def lose(self, station: Station) -> None:
        for attached in self._attached:
            await attached.detach()
        station.close()


class FakeVdeSwitch(DatagramPeer):
    """The other end of vde:// with `connect`: what a VDE switch has for one client."""

    @classmethod
    async def accepting(cls, listener: trio.SocketListener, path: Path) -> Self:
        with trio.fail_after(TIMEOUT_S):
            ctl = await listener.accept()
            request = await ctl.receive_some(4096)
        assert request[:12] == struct.pack("=III", MAGIC, 3, 0)
        assert request[12:14] == struct.pack("=H", socket.AF_UNIX)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(bytes(path))
        sock.connect(request[14 : 14 + SUN_PATH].rstrip(b"\0"))
        await ctl.send_all(sockaddr_un(bytes(path)))
        return cls(sock, ctl=ctl)


class VdeConnects(Kind):
    """vde:// with `connect`, to a switch that is killed and started again."""

    oversize = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._listener: trio.SocketListener | None = None

    async def target(self) -> str:
        lan = self.directory / "lan.vde"
        lan.mkdir()
        self.stack.callback(lan.rmdir)
        return f"vde://{lan}?connect"

    async def station(self) -> FakeVdeSwitch:
        sock = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(bytes(self.path("lan.vde/ctl")))
        sock.listen(1)
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self.stack.push_async_callback(self._listener.aclose)
        return await FakeVdeSwitch.accepting(self._listener, self.path("lan.vde/001.1"))

    async def lose(self, station: Station) -> None:
        assert self._listener is not None
        await self._listener.aclose()
        station.vanish()


KINDS: dict[str, Callable[[Path], Kind]] = {
    "tcp": partial(Listens, url="tcp://127.0.0.1:0"),
    "tcp6": partial(Listens, url="tcp://[::1]:0"),
    "tcp-single": partial(Listens, url="tcp://127.0.0.1:0", single=True),
    "tcp-connect": partial(Connects, family=socket.AF_INET),
    "tcp6-connect": partial(Connects, family=socket.AF_INET6),
    "tcp-tls": ListensTls,
    "tcp-tls-connect": ConnectsTls,
    "unix": partial(Listens, url="unix://{}/lan.sock"),
    "unix-single": partial(Listens, url="unix://{}/lan.sock", single=True),
    "unix-connect": partial(Connects, family=socket.AF_UNIX),
    "fd-stream": StreamPair,
    "fd-tcp": partial(InheritedListener, url="tcp://127.0.0.1:0"),
    "fd-tcp-single": partial(InheritedListener, url="tcp://127.0.0.1:0", single=True),
    "fd-unix": partial(InheritedListener, url="unix://{}/lan.sock"),
    "fd-pair": DatagramPair,
    "fd-udp": partial(InheritedUdp, host="127.0.0.1"),
    "fd-udp6": partial(InheritedUdp, host="::1"),
    "fd-udp-connected": partial(UdpConnected, host="127.0.0.1"),
    "fd-unixgram": InheritedUnixgram,
    "udp": partial(Udp, host="127.0.0.1"),
    "udp6": partial(Udp, host="::1"),
    "udp-remote": partial(UdpRemote, host="127.0.0.1"),
    "udp6-remote": partial(UdpRemote, host="::1"),
    "unixgram": Unixgram,
    "unixgram-fixed": partial(Unixgram, fixed=True),
    "unixgram-remote": UnixgramRemote,
    "unixgram-remote-fixed": partial(UnixgramRemote, fixed=True),
    "mcast": Group,
    "vxlan": Vxlan,
    "vxlan-remote": VxlanRemote,
    "vxlan6-remote": partial(VxlanRemote, host="::1"),
    "l2tpv3": partial(L2tpv3, host="127.0.0.1"),
    "l2tpv3-6": partial(L2tpv3, host="::1"),
    "vde": partial(Vde, version=3),
    "vde1": partial(Vde, version=1),
    "vde-connect": VdeConnects,
    "vde-uplink": VdeUplink,
}


def ignore_loss() -> suppress:
    """For traffic that goes on while a peer or an endpoint goes away."""
    return suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, AssertionError)
