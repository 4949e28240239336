"""Stations of a LAN that are this machine's own processes: namespaces, containers and programs."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import trio

from vswitch.testing.container import Container
from vswitch.testing.link import Link, Nic
from vswitch.testing.namespace import Namespace
from vswitch.testing.program import Program

SSH = "ssh"  # the name of the namespace that ssh runs in
N = TypeVar("N", bound=Namespace)


class LocalStations:
    """What a `Lan` has of them. Containers are namespaces, too."""

    namespaces: dict[str, Namespace]
    programs: dict[str, Program]
    _asking_for_ssh: trio.Lock

    async def namespace(
        self, name: str, ip: str | None = None, *, mac: str = "", gateway: str = "", **port: Any
    ) -> Namespace:
        """Plugs in a network namespace of this machine's, in which programs can be run.

        Raises InputError for a name or address that is taken, RefusedError where the system does not allow it.
        """
        return await self._plugged(Namespace, name, Nic(ip, mac, port=port), gateway)

    async def container(
        self,
        name: str,
        image: str,
        command: Sequence[str] = (),
        *,
        ip: str | None = None,
        mac: str = "",
        gateway: str = "",
        arguments: Sequence[str] = (),
        **port: Any,
    ) -> Container:
        """Plugs in a container of an image, with the command that it runs unless that is the image's own.

        `arguments` are more words for `podman run`. Raises as `namespace` does, and RefusedError without podman.
        """

        def make(link: Link, descriptor: int) -> Container:
            return Container(link, descriptor, image, command, arguments)

        return await self._plugged(make, name, Nic(ip, mac, port=port), gateway)

    async def program(self, name: str, command: Sequence[str], *, ip: str = "", **port: Any) -> Program:
        """Plugs in a program, with arguments, that speaks QEMU's stream on a descriptor: `{fd}` is its number.

        `ip` is what the others are to know it by, if it has an address. Raises InputError.
        """
        async with self._new_link(name, Nic(ip, port=port)) as link:
            with await link.plug() as stream:
                self.programs[name] = Program(link, command, stream.fileno())
        await self._tell_names()
        return self.programs[name]

    async def _on_the_lan_of(self, link: Link) -> Namespace:
        """A namespace that reaches a machine at a cable's end, for programs of this machine's to run in."""
        vlan = link.nic.port.get("vlan", link.nic.port.get("native"))
        name = SSH if vlan is None else f"{SSH}-{vlan}"
        async with self._asking_for_ssh:
            if name not in self.namespaces:
                await self.namespace(name, **({} if vlan is None else {"vlan": vlan}))
        return self.namespaces[name]

    async def _plugged(self, make: Callable[[Link, int], N], name: str, nic: Nic, gateway: str) -> N:
        async with self._new_link(name, nic) as link:
            with await link.plug() as stream:
                made = make(link, stream.fileno())
            try:
                await made.start()
                if gateway:
                    await made.route(gateway)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await made.end()
                raise
        self.namespaces[name] = made
        await self._tell_names()
        return made

    async def _end_processes(self) -> None:
        async with trio.open_nursery() as nursery:
            for namespace in self.namespaces.values():
                nursery.start_soon(namespace.end)
            for program in self.programs.values():
                nursery.start_soon(program.end)

    def _new_link(self, name: str, nic: Nic) -> AbstractAsyncContextManager[Link]:
        raise NotImplementedError

    async def _tell_names(self) -> None:
        raise NotImplementedError
