"""vde:///DIR — being a VDE switch: QEMU's `-netdev vde`, vde_plug, and everything else that uses libvdeplug.

A client connects to DIR/ctl and says where its datagram socket is; it gets a port, and a socket DIR/PORT.N of its
own to send frames to. Closing the connection unplugs it. Both ends connect their sockets: once a client is in, it
needs nothing in the directory, and stays when that is removed.
"""

import contextlib
import errno
import os
import pwd
import socket
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import msgspec
import trio

from vswitch.dataplane.datagram import DatagramLink
from vswitch.endpoints import unix_socket
from vswitch.endpoints.accepting import Acceptor
from vswitch.endpoints.comeback import serve_again
from vswitch.endpoints.endpoint import Endpoint
from vswitch.endpoints.url import EndpointConfig
from vswitch.endpoints.vde import directory, mgmt
from vswitch.endpoints.vde.managed import VdePeer
from vswitch.endpoints.vde.vlans import ANYBODY, VdePort, VdeVlans
from vswitch.errors import InputError, printable
from vswitch.ports.ports import Ports
from vswitch.protocols import vde
from vswitch.supervision import contain, contain_once_started, keep_running

HANDSHAKE_S = 5.0
HANDSHAKES_MAX = 64
CHATTER_MAX = 65536  # bytes on the control connection that nobody asked for


class Refused(Exception):
    """A client does not get a port; says why."""


class VdeSwitch(Endpoint):
    """vde://: each client is a port, by the number that it asks for or the lowest that is free."""

    def __init__(self, config: EndpointConfig, name: str, ports: Ports, sock: socket.socket | None = None) -> None:
        super().__init__(config, name, ports, sock)
        self._directory = directory.Directory(config)
        directory.group_id(config, "mgmtgroup")  # so that a wrong one is said before anything is made
        self._peers: dict[int, VdePeer] = {}  # by port number
        self._socket_numbers = count()
        self._handshakes = 0
        self.vlans = VdeVlans()
        self.started_s = 0.0

    def peers(self) -> Sequence[VdePeer]:
        """Who is plugged in, by port number."""
        return [self._peers[number] for number in sorted(self._peers)]

    def adopt(self, name: str, description: str) -> None:
        """Give the console the port of another endpoint, which is that one's only and stays: a TAP device's."""
        port = next(port for port in self.ports if port.name == name)
        number = self.vlans.lowest_free(self._peers)
        self.vlans = self.vlans.with_port(number, VdePort())
        self._peers[number] = VdePeer(number, _user(os.geteuid()), description, port, "tuntap")

    async def run(self, started: Callable[[], None]) -> None:
        def begin() -> None:
            directory.sweep(self._directory.path)
            self.started_s = trio.current_time()
            started()

        with contextlib.closing(self._directory):
            async with trio.open_nursery() as clients:
                if self.config.mgmt is not None:  # first of all, so that who finds `ctl` finds it, too
                    await clients.start(self._serve_mgmt, name=f"the console of {self.name}")
                await serve_again(self.name, self._directory.ctl, partial(self._listen, clients), begin)

    async def _serve_mgmt(self, task_status: trio.TaskStatus[None]) -> None:
        what, serve = f"the console of {self.name}", partial(mgmt.serve, self)
        await contain_once_started(self.ports.failures, what, serve, task_status.started, again=True)

    async def _listen(self, clients: trio.Nursery, started: Callable[[], None]) -> None:
        """Accept until `ctl` is removed. Clients that are in stay."""
        listener = trio.socket.from_stdlib_socket(self._directory.listen())
        started()
        async with trio.open_nursery() as nursery:
            what = f"accepting by {self.name}"
            nursery.start_soon(keep_running, self.ports.failures, what, self._accept, listener, clients, name=what)
            await unix_socket.removed(self._directory.ctl, self.name)
            nursery.cancel_scope.cancel()
        self._directory.lose()

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        acceptor = Acceptor(listener, self.name, self.ports)
        while True:
            client = await acceptor.next()
            if self._handshakes >= HANDSHAKES_MAX:
                self._turn_away("a client", "too many have not said yet what they want")
                client.close()
            else:
                self._handshakes += 1
                what = f"a client of {self.name}"
                nursery.start_soon(contain, self.ports.failures, what, self._serve, client, name=what)

    async def _serve(self, ctl: trio.socket.SocketType) -> None:
        """One client, from its request to its end."""
        with ctl:
            try:
                try:
                    request = await self._receive_request(ctl)
                finally:
                    self._handshakes -= 1
                uid = unix_socket.peer_uid(ctl)
                groups: set[int] = set()
                if any(port.group != ANYBODY for port in self.vlans.ports.values()):
                    groups = await trio.to_thread.run_sync(_groups, uid)
                await self._keep(ctl, request, uid, self._choose_number(request.port, uid, groups))
            except (Refused, OSError) as error:
                why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self._turn_away("a client", why)

    async def _receive_request(self, ctl: trio.socket.SocketType) -> vde.Request:
        data = b""
        with trio.move_on_after(HANDSHAKE_S):
            while len(data) < vde.REQUEST_MAX:
                more = await ctl.recv(vde.REQUEST_MAX - len(data))
                if not more:
                    raise Refused("it left in the middle of its request" if data else "it left without a request")
                data += more
                try:
                    request = vde.parse_request(data)
                except vde.BadRequest as error:
                    raise Refused(str(error)) from None
                if request is not None:
                    return request
        raise Refused("its request did not come in time")

    def _choose_number(self, wanted: int | None, uid: int, groups: set[int]) -> int:
        if wanted is not None:
            if wanted in self._peers:
                raise Refused(f"it wants port {wanted}, which is taken")
            if wanted > self.config.limit:
                raise Refused(f"it wants port {wanted}, and there are {self.config.limit} (limit=)")
        number = self.vlans.lowest_free(self._peers) if wanted is None else wanted
        if number > self.config.limit:
            raise Refused(f"all {self.config.limit} ports are taken or reserved (limit=)")
        if not self.vlans.ports.get(number, VdePort()).admits(uid, groups):
            raise Refused(f"port {number} is not for uid {uid} (port/setuser, port/setgroup)")
        return number

    async def _keep(self, ctl: trio.socket.SocketType, request: vde.Request, uid: int, number: int) -> None:
        """Give a client its port until it closes its control connection. Raises Refused, OSError."""
        with contextlib.ExitStack() as stack:
            sock, path = self._open_socket(stack, number, uid)
            address = _connect(sock, request.path, uid)
            policy = self.vlans.policy(number, self.config.policy, self.config.policy)
            config = msgspec.structs.replace(self.config, policy=policy)
            try:
                port = self.ports.add(f"{self.name}.{number}", self.name, config)
            except InputError as error:  # another endpoint has that name, or does not go with the policy
                raise Refused(str(error)) from None
            stack.callback(self.ports.remove, port)
            if number not in self.vlans.ports:
                self.vlans = self.vlans.with_port(number, VdePort())
            ended = trio.CancelScope()
            user = _user(uid)
            self._peers[number] = VdePeer(number, user, request.description, port, unplug=ended.cancel)
            stack.callback(self._peers.pop, number)
            # A client whose socket has no name can only send.
            link = DatagramLink(sock, port.port, self.ports.bridge, lasting=address is None)
            peer = printable(request.description).strip() or unix_socket.peer_text(ctl)
            self.ports.links.plug(port, link, peer, ended.cancel)
            if address is not None and directory.is_clients(self._directory.path, address):
                stack.callback(directory.remove_dead, os.fsdecode(address))
            stack.callback(self.ports.links.unplug, port, "removed")
            with ended:
                await ctl.send(vde.reply(os.fsencode(path)))
                chatter = 0
                while chatter < CHATTER_MAX and (more := await ctl.recv(4096)):
                    chatter += len(more)
            self.ports.links.unplug(port, "closed by peer")

    def _open_socket(self, stack: contextlib.ExitStack, number: int, uid: int) -> tuple[socket.socket, str]:
        """The socket that a client sends its frames to, open to that client; and its path."""
        path = f"{self._directory.path}/{number:03d}.{next(self._socket_numbers)}"
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        os.fchmod(sock.fileno(), self._directory.mode & 0o600)
        sock.bind(path)
        stack.callback(directory.remove_socket, path)
        unix_socket.open_to_others(path, self._directory.mode, self._directory.group, uid if os.geteuid() == 0 else -1)
        return sock, path


def _connect(sock: socket.socket, sun_path: bytes, uid: int) -> bytes | None:
    """Fix a client's socket as the other end of ours; answers its address, None if it has no name."""
    why: str | None = None
    for address in vde.addresses(sun_path):
        try:
            if uid in (0, os.geteuid()):
                sock.connect(address)
            else:
                _connect_to_own(sock, address, uid)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            return address
    if not any(sun_path):
        return None
    raise Refused(f"cannot connect to its socket {os.fsdecode(sun_path).rstrip(chr(0))}: {why}")


def _connect_to_own(sock: socket.socket, address: bytes, uid: int) -> None:
    """Connect to a socket of another user's: its client may have us send to nothing else. Raises OSError."""
    if address[:1] == b"\0":
        raise PermissionError(errno.EACCES, f"only a path tells whose it is (uid {uid})")
    found = os.open(address, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(found).st_uid != uid:
            raise PermissionError(errno.EACCES, f"it is not its own (uid {uid})")
        sock.connect(f"/proc/self/fd/{found}")
    finally:
        os.close(found)


def _user(uid: int) -> str:
    """A user for people. Only names that are at hand: to look others up may take long."""
    if uid not in (0, os.geteuid()):
        return str(uid)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _groups(uid: int) -> set[int]:
    """The groups of a user; none if nobody knows that number."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return set()
    return set(os.getgrouplist(user.pw_name, user.pw_gid))
