"""vxlan:// (RFC 7348): a segment that other hosts are in, which are given one by one, meet in a group, or are learned.

    vteps.py  a port for each other end   sockets.py  what they go by

Frames leave from a few ports of ours (sockets.py), by a hash of their flow, as the RFC recommends. vde's vxvde differs
in this alone: whoever sends is answered at the port it sends from, so that we have one, too.
"""

import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from vswitch.endpoints import inet, socket_filter
from vswitch.endpoints.comeback import serve_again
from vswitch.endpoints.datagram.addresses import departures
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.endpoints.tunnel import sockets
from vswitch.endpoints.tunnel.sockets import Interface
from vswitch.endpoints.tunnel.vteps import Vteps
from vswitch.endpoints.url import IFACE_DEFAULT
from vswitch.errors import InputError, RefusedError
from vswitch.protocols import vxlan
from vswitch.supervision import keep_running


class Vxlan(Endpoint):
    """One segment, at one port of this host's."""

    async def run(self, started: Callable[[], None]) -> None:
        await serve_again(self.name, self.url, self._serve, started)

    async def _serve(self, started: Callable[[], None]) -> None:
        """Serve until cancelled, or until the group's interface goes. Raises InputError, RefusedError."""
        with contextlib.ExitStack() as stack:
            gone = stack.enter_context(departures())
            receiving = [stack.enter_context(await self._bind())]
            family, here = receiving[0].family, receiving[0].getsockname()
            try:
                sending = self._senders(stack, receiving[0])
                if self.config.tunnel.mcast:
                    receiving.append(self._join(stack, sending))
            except OSError as error:
                raise RefusedError(f"{self.url}: {inet.reason(error)}") from None
            head = vxlan.encapsulation(self.config.tunnel.vni)
            vteps = Vteps(self.ports, self.name, lambda: self.config, head, sending, self._turn_away)
            try:
                for sock in receiving:
                    vteps.listen(sock)
                for address, text in await self._others(family, here):
                    vteps.add(family, address, text)
                self._say_who_may_come(here[0])
                async with trio.open_nursery() as nursery:
                    what = f"looking after the peers of {self.name}"
                    nursery.start_soon(keep_running, self.ports.failures, what, vteps.age, name=what)
                    started()
                    await self._until(gone)
                    nursery.cancel_scope.cancel()
            finally:
                vteps.close()

    async def _bind(self) -> socket.socket:
        """Where others send to: of vxvde any port. Raises InputError, RefusedError."""
        config = self.config
        if config.tunnel.vxvde:
            return await inet.bind(msgspec.structs.replace(config, port=0), socket.SOCK_DGRAM)
        sock = await inet.bind(config, socket.SOCK_DGRAM)
        self.config = msgspec.structs.replace(config, port=sock.getsockname()[1])
        return sock

    def _senders(self, stack: contextlib.ExitStack, receiving: socket.socket) -> list[socket.socket]:
        """Raises OSError."""
        fragment = self.config.tunnel.fragment
        sockets.set_up(receiving, fragment=fragment)
        sockets.only_joined(receiving)
        if self.config.tunnel.vxvde:
            return [receiving]
        return sockets.senders(stack, receiving.family, receiving.getsockname(), fragment=fragment)

    def _join(self, stack: contextlib.ExitStack, sending: list[socket.socket]) -> socket.socket:
        """Raises InputError, RefusedError, OSError."""
        is_vxvde = self.config.tunnel.vxvde
        interface = self._interface(sending[0].family)
        for sock in sending:
            interface.send_by(sock, loop=is_vxvde)
        joined = interface.join(stack, sending[0].family, self.config.tunnel.mcast, self.config.port)
        if is_vxvde:  # others on this machine are to hear us, and we are not
            host, port = sending[0].getsockname()[:2]
            socket_filter.leave_out(joined, self._group_address() or host, port)
        return joined

    def _interface(self, family: int) -> Interface:
        """That of the group. Raises InputError, RefusedError."""
        iface, host = self.config.iface, self.config.host
        if family == socket.AF_INET:
            address = self._group_address()
            if address is None:
                raise RefusedError(f"{self.url}: there is no interface {iface} with an IPv4 address")
            if address == "0.0.0.0":
                raise InputError(f"{self.url}: mcast: on which interface? add iface=, its name or its IPv4 address")
            return Interface(address, 0)
        name = host.partition("%")[2] if iface == IFACE_DEFAULT else iface
        if not name:
            raise InputError(f"{self.url}: mcast: on which interface? add iface=, its name")
        try:
            return Interface("0.0.0.0", socket.if_nametoindex(name))
        except OSError:
            raise RefusedError(f"{self.url}: there is no interface {name}") from None

    def _group_address(self) -> str | None:
        """The IPv4 address of the group's interface: that which we are bound to, unless another is asked for."""
        asked = self.config.host if self.config.iface == IFACE_DEFAULT else self.config.iface
        return None if ":" in asked else inet.interface_address(asked)

    async def _others(self, family: int, here: Any) -> list[tuple[Any, str]]:
        """The addresses that are known from the start, and what they are called. Raises InputError, RefusedError."""
        config = self.config
        if config.tunnel.mcast:
            group = (config.tunnel.mcast, config.port, 0, 0)[: 2 if family == socket.AF_INET else 4]
            return [(group, f"group {inet.text(group)}")]
        found: list[tuple[Any, str]] = []
        for host, port in config.tunnel.remote:
            address = await inet.resolve_alike(f"{self.url}: remote", host, port or config.port, family)
            if address[:2] == here[:2]:
                raise InputError(f"{self.url}: remote: {inet.text(address)} is this end; name the others only")
            if address[0] in {known[0] for known, _ in found}:
                raise InputError(f"{self.url}: remote: two are {address[0]}, by which they are told apart")
            found.append((address, inet.text(address)))
        return found

    def _say_who_may_come(self, here: str) -> None:
        if inet.is_loopback(here):
            log.warning("%s: any user of this machine may send to %s", self.name, self.url)
        else:
            log.warning("%s: anyone who reaches %s, or makes up an address, may send to it", self.name, self.url)

    async def _until(self, gone: Callable[[str], Awaitable[None]]) -> None:
        """Returns when the group's interface has gone, and the membership with it."""
        address = self._group_address() if self.config.tunnel.mcast else None
        if address is None:
            await trio.sleep_forever()
        else:
            await gone(address)
