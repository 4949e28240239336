"""A LAN for a test: a switch, and the machines that are plugged into it.

async with Lan() as lan:
    a, b = await lan.guest("a"), await lan.guest("b")
    assert (await a.run("ping -c1 " + b.ip)).ok
    await lan.expect("icmp and src host " + a.ip, within=2)
"""

import ipaddress
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from vswitch import Attachment, CaptureRequest, InputError, RecordLimits, VSwitch
from vswitch.endpoints.guests.qemu import guest_mac, next_mac
from vswitch.errors import innermost
from vswitch.ports import policy as policies
from vswitch.supervision import is_cancelled
from vswitch.testing import guest_image
from vswitch.testing.evidence import Packets, Wanted, describe, read_wanted
from vswitch.testing.faults import Fault, Restore
from vswitch.testing.guest import Guest, GuestDied
from vswitch.testing.host import ScapyHost
from vswitch.testing.layers import Packet
from vswitch.testing.link import Link, Nic
from vswitch.testing.machine import CARDS_MAX, Image, Login, Machine
from vswitch.testing.qemu import QemuError

NETWORK = "10.0.0.0/24"
RECORD = RecordLimits(64 * 2**20, 1e6)
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
SHOWN_MAX = 10  # packets, where one that was expected did not come

Station = Guest | ScapyHost | Link | str
"""What can be named where a machine is meant: itself, one of its cables, or the name of a port or endpoint."""


class ExpectationFailed(AssertionError):
    """A frame was expected and did not come, or came and was not to."""


class Lan:
    """A VSwitch, `switch`, and helpers for tests; running while its `async with` block does.

    `seed` makes `random`, which everything goes by that is left to chance. `network` is where addresses come from.
    `record`: how much of what passes is kept in memory, for `expect` and `save`. `cold`: guests boot, instead of being
    clones of one that has. Raises GuestDied from the block if a guest does.
    """

    def __init__(
        self, *, seed: str | int = 0, network: str = NETWORK, record: RecordLimits = RECORD, cold: bool = False
    ) -> None:
        self.seed = seed
        self.random = random.Random(str(seed))
        self.network = ipaddress.IPv4Network(network)
        self.cold = cold
        self.switch = VSwitch("lan", record=record)
        self.guests: dict[str, Guest] = {}
        self.hosts: dict[str, ScapyHost] = {}
        self._taken: set[ipaddress.IPv4Address] = set()
        self._links: dict[str, Link] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._telling = trio.Lock()

    def __repr__(self) -> str:
        machines: list[Guest | ScapyHost] = [*self.guests.values(), *self.hosts.values()]
        return f"<Lan {self.network}: {', '.join(f'{one.name} {one.ip}'.strip() for one in machines) or 'empty'}>"

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self.switch)
        self._stack.push_async_callback(self._power_off)
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(self._nursery.cancel_scope.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            if error is not None and not is_cancelled(error):  # the block's own error: as it is, not in a group
                await self._stack.__aexit__(None, None, None)
                return None
            return await self._stack.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            if died := group.subgroup(GuestDied):  # whatever else this has led to
                raise innermost(died) from None
            raise

    async def _power_off(self) -> None:
        with trio.CancelScope(shield=True):
            for guest in self.guests.values():
                await guest.power_off()

    async def guest(
        self,
        name: str,
        *,
        ip: str | None = None,
        nics: Sequence[Nic] | None = None,
        image: Image | None = None,
        login: Login | None = None,
        accelerator: str = "tcg",
        memory: str = "192M",
        cpus: int = 1,
        arguments: Sequence[str] = (),
        append: str = "",
        packages: Sequence[str] = (),
        modules: Sequence[str] = (),
        gateway: str = "",
        netboot: bool = False,
        **port: Any,
    ) -> Guest:
        """Boots a guest; returns when it takes commands.

        Without `image` it is the tiny one, with Debian's `packages` and kernel `modules` on top. `ip`, and `port`, the
        URL parameters of its port (`vlan=10`), are for its only card; `nics` are for several. With `netboot` it has no
        image, and boots from the network. `accelerator`: `kvm` where that works. `arguments` are more words for QEMU's
        command line. Raises InputError for a name or address that is taken, GuestImageError if there is no image,
        QemuError if it does not come up.
        """
        if nics is not None and (ip is not None or port):
            said = ", ".join([*(["ip"] if ip is not None else []), *port])
            raise InputError(f"{name}: {said}: of which card? say it in nics, like Nic(ip=…, port={{…}})")
        if netboot and ip is None:
            ip = ""  # nobody would tell it
        cards = list(nics) if nics is not None else [Nic(ip=ip, port=port)]
        if len(cards) > CARDS_MAX:
            raise InputError(f"{name}: {len(cards)} cards; a guest has room for {CARDS_MAX}")
        if image is None and not netboot:
            build = partial(guest_image.build, packages=packages, modules=modules)
            image = await trio.to_thread.run_sync(build, abandon_on_cancel=True)  # which may take minutes
        machine = Machine(image, login, accelerator, memory, cpus, arguments, append)
        guest = Guest(name, machine, [], self._nursery, gateway, self._tell_names, cold=self.cold)
        try:
            for number, card in enumerate(cards):
                port_name = f"{name}-{number + 1}" if number else name
                guest.links.append(self._link(port_name, f"{name}/{number}", card))
            self.guests[name] = guest
            await guest.boot()
        except InputError:
            await self._forget(guest.links)
            self.guests.pop(name, None)
            raise
        except QemuError:
            await guest.power_off()  # its console is still there to be looked at
            raise
        return guest

    async def boot(self, *names: str, **options: Any) -> tuple[Guest, ...]:
        """Boots several guests side by side, each as `guest` does; addresses are given in the order of the names."""
        addresses = self._free_addresses() if "ip" not in options and "nics" not in options else None
        found: dict[str, Guest] = {}

        async def boot(name: str, own: dict[str, Any]) -> None:
            found[name] = await self.guest(name, **options, **own)

        try:
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(boot, name, {"ip": str(next(addresses))} if addresses is not None else {})
        except BaseExceptionGroup as group:
            raise innermost(group) from None
        return tuple(found[name] for name in names)

    async def host(
        self, name: str, ip: str | None = None, *, mac: str = "", gateway: str = "", **port: Any
    ) -> ScapyHost:
        """Plugs in a host that is made of scapy packets. Raises InputError for a name or address that is taken."""
        link = self._link(name, f"{name}/0", Nic(ip, mac, port=port))
        try:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(await link.plug()))
        except InputError:
            await self._forget([link])
            raise
        seed = random.Random(f"{self.seed}/{name}")
        host = ScapyHost(name, link.mac, link.interface, stream, seed, gateway=gateway or None)
        self.hosts[name] = host
        scope = self._scopes[name] = trio.CancelScope()
        self._nursery.start_soon(self._run_host, host, stream, scope)
        await self._tell_names()
        return host

    async def attach(self, target: Any, **parameters: object) -> Attachment:
        """Lets in what else there is, by an endpoint URL or a socket; see VSwitch.attach."""
        return await self.switch.attach(target, **parameters)

    async def remove(self, machine: Guest | ScapyHost) -> None:
        """Takes a machine away, with its cables; its name and address are free again."""
        if isinstance(machine, Guest):
            await machine.power_off()
            del self.guests[machine.name]
            await self._forget(machine.links)
        else:
            self._scopes.pop(machine.name).cancel()
            del self.hosts[machine.name]
            await self._forget([self._links[machine.name]])

    async def _forget(self, links: Iterable[Link]) -> None:
        for link in links:
            await link.unplug()
            del self._links[link.name]
            if link.interface is not None:
                self._taken.discard(link.interface.ip)

    def partition(self, *islands: Iterable[Station]) -> Fault:
        """Islands between which nothing passes, whatever their VLANs. Machines in none reach all of them."""
        names = [[name for station in island for name in self._ports_of(station)] for island in islands]
        return self._parted(names, rest=False, what=f"partition of {' from '.join(map(' and '.join, names))}")

    def isolate(self, *stations: Station) -> Fault:
        """Machines that reach nobody else, each other neither; also nobody who comes later."""
        names = [self._ports_of(station) for station in stations]
        return self._parted(names, rest=True, what=f"isolation of {', '.join(chain(*names))}")

    def down(self, station: Station) -> Fault:
        """A machine's ports are down: they take nothing in, and send nothing."""

        async def inject() -> Restore:
            names = self._ports_of(station)
            self._set_up(names, False)

            async def restore() -> None:
                self._set_up(names, True)

            return restore

        return Fault(inject, f"link down of {_name(station)}")

    def flap(self, station: Station, *, down: float = 0.1, up: float = 0.1) -> Fault:
        """A machine's ports go down and up again and again, so many seconds each, until restored."""

        async def inject() -> Restore:
            scope, over = trio.CancelScope(), trio.Event()
            names = self._ports_of(station)
            self._set_up(names, False)

            async def go() -> None:
                try:
                    with scope:
                        while True:
                            await trio.sleep(down)
                            self._set_up(names, True)
                            await trio.sleep(up)
                            self._set_up(names, False)
                finally:
                    self._set_up(names, True)
                    over.set()

            self._nursery.start_soon(go)

            async def restore() -> None:
                scope.cancel()
                await over.wait()

            return restore

        return Fault(inject, f"flapping of {_name(station)}")

    def now(self) -> int:
        """A moment, for `since`."""
        return self.switch.captures.moment()

    async def expect(
        self, wanted: Wanted, *, within: float = 5.0, at: Station | None = None, since: int | None = None
    ) -> Packet:
        """The first frame that is `wanted`: a filter in the pcap language, or a function of a scapy packet.

        Frames since the test began count, or since `since`, and then those of the next `within` seconds; with `at` only
        those at one machine's ports. Its `sniffed_on` is the port, `direction` 1 where it came in and 2 where it left,
        `comments` say why it was dropped. Raises ExpectationFailed, InputError for a wrong filter.
        """
        __tracebackhide__ = True
        packet = await self._find(wanted, within, at, since)
        if packet is None:
            last = describe(await self._last(since))
            raise ExpectationFailed(f"no frame was {_shown(wanted)} within {within:g} s{last}")
        return packet

    async def expect_none(
        self, wanted: Wanted, *, within: float = 1.0, at: Station | None = None, since: int | None = None
    ) -> None:
        """Nothing like it since the test began, or since `since`, nor in the next `within` seconds."""
        __tracebackhide__ = True
        packet = await self._find(wanted, within, at, since)
        if packet is not None:
            raise ExpectationFailed(f"a frame was {_shown(wanted)}{describe([packet])}")

    def capture(self, wanted: Wanted | None = None, *, at: Station | None = None) -> "Capturing":
        """What passes while its `async with` block runs; afterwards `packets` has it."""
        return Capturing(self, wanted, at)

    async def save(self, directory: Path, since: int | None = None) -> list[Path]:
        """Writes what is known into a directory: every port's frames, since a moment, as pcapng, and guests' consoles.

        May be called when the LAN has ended. Answers the files.
        """
        directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
        files = [directory / "lan.pcapng"]
        with files[0].open("wb") as file:
            async with aclosing(self.switch.captures.recorded(CaptureRequest(), since=since or 0)) as blocks:
                async for data in blocks:
                    file.write(data)
        for guest in self.guests.values():
            files.append(directory / f"{guest.name}.console.txt")
            files[-1].write_text(guest.console)
        return files

    async def _find(self, wanted: Wanted, within: float, at: Station | None, since: int | None) -> Packet | None:
        """The first of what has passed since then, or passes soon, that is wanted."""
        matches, predicate = read_wanted(wanted)
        request = CaptureRequest(ports=tuple(self._ports_of(at)) if at is not None else ())
        live = await self.switch.captures.prepare(request, matches)
        past, present = Packets(), Packets()
        async with aclosing(live.stream()) as passing:
            present.feed(await anext(passing))  # and now it watches: nothing is missed between past and present
            async with aclosing(self.switch.captures.recorded(request, matches, since or 0)) as passed:
                async for blocks in passed:
                    for packet in past.feed(blocks):
                        if await predicate(packet):
                            return packet
            with trio.move_on_after(within):
                async for blocks in passing:
                    for packet in present.feed(blocks):
                        if await predicate(packet):
                            return packet
        return None

    async def _last(self, since: int | None) -> list[Packet]:
        """The last packets there were."""
        past, found = Packets(), list[Packet]()
        async with aclosing(self.switch.captures.recorded(CaptureRequest(), since=since or 0)) as passed:
            async for blocks in passed:
                found = [*found, *past.feed(blocks)][-SHOWN_MAX:]
        return found

    async def _run_host(self, host: ScapyHost, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        with scope:
            async with stream:
                await host.run()

    def _parted(self, islands: list[list[str]], rest: bool, what: str) -> Fault:
        async def inject() -> Restore:
            number = self.switch.policies.part(*islands, rest=rest)

            async def restore() -> None:
                self.switch.policies.heal(number)

            return restore

        return Fault(inject, what)

    async def _tell_names(self) -> None:
        """Has all guests know all machines by name."""
        async with self._telling, trio.open_nursery() as nursery:
            known = [
                (link.name, link.ip) for link in self._links.values() if link.ip and HOST_NAME.fullmatch(link.name)
            ]
            for guest in self.guests.values():
                nursery.start_soon(guest.tell_names, known)

    def _set_up(self, names: list[str], up: bool) -> None:
        for name in names:
            self.switch.policies.set_up(name, up)

    def _ports_of(self, station: Station) -> list[str]:
        """The names of a machine's ports, or an endpoint's own. Raises InputError for what is not on this LAN."""
        names = [link.name for link in station.links] if isinstance(station, Guest) else [_name(station)]
        known = [*self._links, *(port.name for port in self.switch.ports())]  # a guest that is down has no ports
        known += [endpoint.name for endpoint in self.switch.endpoints()]
        for name in names:
            if name not in known:
                there = ", ".join(dict.fromkeys(known)) or "none"
                raise InputError(f"there is no port {name!r}; there are {there}")
        return names

    def _check_name(self, name: str) -> None:
        if name in self._links:
            raise InputError(f"there is a machine {name!r} already; give this one another name")

    def _link(self, name: str, seed: str, nic: Nic) -> Link:
        self._check_name(name)
        link = Link(self.switch, name, self._mac(name, seed, nic), self._interface(nic.ip), nic)
        self._links[name] = link
        return link

    def _mac(self, name: str, seed: str, nic: Nic) -> str:
        """A card's address, which its port's policy has to let in. Raises InputError."""
        try:
            policy = policies.read({key: value for key, value in nic.port.items() if key in policies.PARAMETERS})
            lacking = policy.lacks(policies.read_mac(nic.mac)) if nic.mac and policy.senders is not None else []
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if lacking:
            more = " and ".join(f"{parameter}={nic.mac}" for parameter in lacking)
            raise InputError(f"{name}: the port drops what comes from {nic.mac}; add {more}, or leave mac out")
        named = [policies.mac_text(mac) for mac in policy.stations]
        return nic.mac or (next_mac(named, [link.mac for link in self._links.values()]) if named else guest_mac(seed))

    def _free_addresses(self) -> Iterator[ipaddress.IPv4Address]:
        return (address for address in self.network.hosts() if address not in self._taken)

    def _interface(self, ip: str | None) -> ipaddress.IPv4Interface | None:
        """An address, of which there is one each. Raises InputError."""
        if ip == "":
            return None
        length = self.network.prefixlen
        if ip is None:
            found = ipaddress.IPv4Interface(f"{next(self._free_addresses())}/{length}")
        else:
            try:
                found = ipaddress.IPv4Interface(ip if "/" in ip else f"{ip}/{length}")
            except ValueError:
                raise InputError(f"{ip!r} is no IPv4 address; write one like 10.0.0.9 or 10.1.0.1/24") from None
            if found.ip in self._taken:
                raise InputError(f"{found.ip} is somebody else's already; give this one another ip")
        self._taken.add(found.ip)
        return found


class Capturing:
    """What `lan.capture` answers; `packets` are scapy's, in the order they passed."""

    def __init__(self, lan: Lan, wanted: Wanted | None, at: Station | None) -> None:
        self.packets: list[Packet] = []
        self._lan = lan
        self._wanted = wanted
        self._at = at

    def __repr__(self) -> str:
        wanted = _shown(self._wanted) if self._wanted is not None else "everything"
        return f"<Capture of {wanted}: {len(self.packets)} packets>"

    async def __aenter__(self) -> Self:
        lan = self._lan
        matches, self._predicate = read_wanted(self._wanted if self._wanted is not None else "")
        ports = tuple(lan._ports_of(self._at)) if self._at is not None else ()
        self._live = await lan.switch.captures.prepare(CaptureRequest(ports=ports), matches)
        self._over = trio.Event()
        await lan._nursery.start(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.end()
        with trio.CancelScope(shield=True):
            await self._over.wait()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        packets = Packets()
        try:
            async with aclosing(self._live.stream()) as passing:
                packets.feed(await anext(passing))
                task_status.started()
                async for blocks in passing:
                    self.packets += [packet for packet in packets.feed(blocks) if await self._predicate(packet)]
        finally:
            self._over.set()


def _name(station: Station) -> str:
    return station if isinstance(station, str) else station.name


def _shown(wanted: Wanted) -> str:
    return repr(wanted) if isinstance(wanted, str) else f"what {getattr(wanted, '__name__', 'the function')} wants"
