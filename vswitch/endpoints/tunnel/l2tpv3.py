"""l2tpv3:// (RFC 3931): one session with one other end, over UDP or as IP protocol 115.

But for the header it is udp:// with `remote=`: the port is up while somebody on this machine has that address, or if
the other end is on another one, always.
"""

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from vswitch.dataplane.port import Port
from vswitch.dataplane.tunnel import TunnelLink
from vswitch.endpoints import inet
from vswitch.endpoints.datagram.endpoint import UdpPeers
from vswitch.endpoints.endpoint import log
from vswitch.endpoints.tunnel import sockets
from vswitch.errors import RefusedError
from vswitch.protocols import l2tpv3


class L2tpv3(UdpPeers):
    """A session. Without UDP there are no ports: an end is known by its address alone."""

    @contextlib.asynccontextmanager
    async def _bound(self) -> AsyncIterator[socket.socket]:
        async with super()._bound() if self.config.tunnel.udp else self._raw() as sock:
            sockets.set_up(sock, fragment=self.config.tunnel.fragment)
            before = 0
            if not self.config.tunnel.udp and sock.family == socket.AF_INET:
                before = l2tpv3.IPV4_HEADER
            self._encapsulation = l2tpv3.encapsulation(self.config.tunnel.l2tp_session, before)
            self._links: dict[bytes, TunnelLink] = {}
            yield sock

    @contextlib.asynccontextmanager
    async def _raw(self) -> AsyncIterator[socket.socket]:
        """Raises InputError, RefusedError."""
        remote = self.config.remote
        assert isinstance(remote, tuple)
        try:
            found = await inet.bind(self.config, socket.SOCK_RAW, l2tpv3.PROTOCOL)
        except PermissionError:
            raise RefusedError(
                f"{self.url}: IP protocol 115 takes root's rights (CAP_NET_RAW); use UDP on both sides, without udp=no"
            ) from None
        with found as sock:
            address = await self._resolve_remote(remote, sock.family, sock.getsockname()[0])
            self._remote = (address[0], 0, *address[2:])
            log.warning("%s: anyone who reaches %s, or makes up an address, may send to it", self.name, self.url)
            yield sock

    def _share(self, sock: socket.socket) -> Any:
        any_port = not self.config.tunnel.udp
        return self.ports.shared.share_tunnel(
            sock, self._meet_names, self._encapsulation, self._links, any_port=any_port
        )

    def _meet_names(self, strangers: list[tuple[bytes, bytes]]) -> None:
        self._meet([(sockets.address_of(name)[1], frame) for name, frame in strangers])

    def _link(self, address: Any, port: Port) -> TunnelLink:
        sock = self._shared.sock
        name = sockets.sockaddr(sock.family, address)
        key = sockets.key(name, any_port=not self.config.tunnel.udp)
        link = TunnelLink(self._links, key, name, [sock], self._encapsulation, port, self.ports.bridge)
        if not sockets.can_segment(sock):
            link.segment_max = 0
        return link
