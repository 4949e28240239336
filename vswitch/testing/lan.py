"""A LAN for a test: a switch, and the machines that are plugged into it.

async with Lan() as lan:
    a, b = await lan.guest("a"), await lan.guest("b")
    assert (await a.run("ping -c1 " + b.ip)).ok
    await lan.expect("icmp and src host " + a.ip, within=2)
"""

import ipaddress
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from vswitch import Attachment, CaptureRequest, InputError, RecordLimits, VSwitch
from vswitch.control.capture_requests import FileRequest
from vswitch.control.runtime import QMP
from vswitch.endpoints.guests.qemu import guest_mac, next_mac
from vswitch.errors import innermost
from vswitch.ports import policy as policies
from vswitch.supervision import is_cancelled
from vswitch.testing import evidence, guest_image, pause, snapshot
from vswitch.testing import topology as topologies
from vswitch.testing.boards import X86_64
from vswitch.testing.conditions import Always, Condition, eventually
from vswitch.testing.doors import Doors
from vswitch.testing.evidence import Evidence
from vswitch.testing.expectations import Expectations
from vswitch.testing.guest import Guest, GuestDied
from vswitch.testing.guest_image import GuestImage
from vswitch.testing.host import ScapyHost
from vswitch.testing.internet import Internet, WithInternet
from vswitch.testing.link import DHCP, Link, Nic
from vswitch.testing.local_stations import LocalStations
from vswitch.testing.machine import CARDS_MAX, Image, Login, Share, image_modules
from vswitch.testing.machine import Machine as QemuMachine
from vswitch.testing.namespace import Namespace
from vswitch.testing.network_faults import NetworkFaults
from vswitch.testing.program import Program
from vswitch.testing.prompt import ask, names_of
from vswitch.testing.qemu import QemuError
from vswitch.testing.reports import REPORT
from vswitch.testing.snapshot import Snapshot
from vswitch.testing.stations import Machine, Station, name_of
from vswitch.testing.timeline import Step, Timeline
from vswitch.testing.topology import Topology

NETWORK = "10.0.0.0/24"
RECORD = RecordLimits(64 * 2**20, 1e6)
# Tiny guests that come up at the same time. Of more, each would take so long that it is given up.
COMING_UP_MAX = max(2, len(os.sched_getaffinity(0)))
_opened_here = count(1)
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class Lan(Expectations, NetworkFaults, LocalStations, WithInternet):
    """A VSwitch, `switch`, and helpers for tests; running while its `async with` block does.

    `seed` makes `random`, which everything goes by that is left to chance. `network` is where addresses come from.
    `record`: how much of what passes is kept in memory, for `expect` and `save`. `cold`: guests boot, instead of being
    clones of one that has. What is in a `topology` is there when the block begins. Raises GuestDied from the block if a
    guest does, unless `guests_may_end`.
    """

    def __init__(
        self,
        *,
        seed: str | int = 0,
        network: str = NETWORK,
        record: RecordLimits = RECORD,
        cold: bool = False,
        topology: Topology | None = None,
        guests_may_end: bool = False,
    ) -> None:
        self.seed = seed
        self.random = random.Random(str(seed))
        self.network = ipaddress.IPv4Network(network)
        self.cold = cold
        self.switch = VSwitch("lan", record=record) if topology is None else topologies.switch_of(topology, record)
        self.internet = Internet(self.switch)
        self.guests: dict[str, Guest] = {}
        self.hosts: dict[str, ScapyHost] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.programs: dict[str, Program] = {}
        self._taken: set[ipaddress.IPv4Address] = set()
        self._links: dict[str, Link] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self.timeline = Timeline()
        self._telling = trio.Lock()
        self._asking_for_ssh = trio.Lock()
        self._coming_up = trio.CapacityLimiter(COMING_UP_MAX)
        self._is_running = False
        self._seen: Evidence | None = None
        self._doors: Doors | None = None
        self._topology = topology
        self._guests_may_end = guests_may_end

    def __repr__(self) -> str:
        machines = ", ".join(f"{one.name} {one.ip}".strip() for one in self.machines.values())
        return f"<Lan {self.network}: {machines or 'empty'}>"

    @property
    def ended_of(self) -> str:
        """A guest that nobody has asked to end, and that has; "" if there is none."""
        return next((f"guest {guest.name} has died" for guest in self.guests.values() if guest.has_died), "")

    @property
    def machines(self) -> dict[str, Machine]:
        """All there are, by name."""
        return {**self.guests, **self.hosts, **self.namespaces, **self.programs}

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self.switch)
        self._beside = await self._stack.enter_async_context(trio.open_nursery())  # goes on when a guest has died
        self._stack.callback(self._beside.cancel_scope.cancel)
        self._stack.push_async_callback(self._power_off)
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(self._nursery.cancel_scope.cancel)
        self.timeline.start()
        self._is_running = True
        if self._topology is not None:
            try:
                await self._populate(self._topology)
            except BaseException as error:
                await self.__aexit__(type(error), error, error.__traceback__)
                raise
        return self

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> Self:
        """A LAN as a topology file has it. Raises InputError, with file and line, and RefusedError."""
        return cls(topology=topologies.read(str(path)), **options)

    async def _populate(self, topology: Topology) -> None:
        """Raises as `attach` and `guest` do."""
        await self.switch.configuration.begin(topology.switch)
        specs = topologies.addressed(topology.guests, self._free_addresses())
        if topology.switch.capture is not None:
            file = FileRequest(path=topology.switch.capture)
            await self.switch.captures.write(file, await self.switch.captures.prepare(CaptureRequest()))
        if topology.switch.metrics is not None:
            await self.switch.serve_metrics(topology.switch.metrics)
        await side_by_side(partial(self.guest, one.name, **one.options) for one in specs)
        self.guests = {one.name: self.guests[one.name] for one in specs}  # in this order, whoever was first

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if error is not None:
            with suppress(Exception):  # this error is what counts
                await self.look()
        self._is_running = False
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
            await self._end_processes()
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
        arch: str = X86_64,
        board: str = "",
        arguments: Sequence[str] = (),
        append: str = "",
        packages: Sequence[str] = (),
        modules: Sequence[str] = (),
        share: Sequence[Share] = (),
        gateway: str = "",
        netboot: bool = False,
        start: str = "",
        prepare: Callable[[Guest], Awaitable[object]] | None = None,
        **port: Any,
    ) -> Guest:
        """Boots a guest; returns when it takes commands.

        Without `image` it is the tiny one, with Debian's `packages` and kernel `modules` on top. `ip`, and `port`, the
        URL parameters of its port (`vlan=10`), are for its only card; `nics` are for several. With `netboot` it has no
        image, and boots from the network. `accelerator`: `kvm` where that works. `arguments` are more words for QEMU's
        command line. `share` are directories of this machine's that it has. With `start`, it goes on from a snapshot of
        that name; if there is none, it boots, `prepare` is awaited, and the snapshot is made. Raises InputError for a
        name or address that is taken, GuestImageError if there is no image, QemuError if it does not come up.
        """
        cards = _cards(name, nics, Nic(ip="" if netboot and ip is None else ip, port=port))  # nobody would tell it
        shares_memory = any(card.shares_memory for card in cards)
        machine = QemuMachine(
            image, login, accelerator, memory, cpus, arguments, append, share, arch, board, shares_memory
        )
        machine.check(name)
        if image is None and not netboot:
            build = partial(guest_image.build, packages=packages, modules=image_modules(modules, share), arch=arch)
            image = await trio.to_thread.run_sync(build, abandon_on_cancel=True)  # which may take minutes
            machine = replace(machine, image=image)
        if any(card.ip == DHCP for card in cards) and not isinstance(image, GuestImage):
            raise InputError(
                f"{name}: only the tiny guest is told to ask by DHCP; for others, leave that to them: ip=''"
            )
        cards = [replace(card, device=card.device or machine.usual_card(name)) for card in cards]
        kept = self._find_snapshot(name, machine, cards, start, needed=prepare is None) if start else None
        cards = cards if kept is None else snapshot.cards_of(kept.facts, cards)
        guest = Guest(
            name,
            machine,
            [],
            self._nursery,
            gateway,
            self._guest_is_up,
            self._on_the_lan_of,
            self.timeline,
            cold=self.cold,
            may_end=self._guests_may_end,
        )
        try:
            for number, card in enumerate(cards):
                port_name = f"{name}-{number + 1}" if number else name
                guest.links.append(self._link(port_name, f"{name}/{number}", card))
            self.guests[name] = guest
            async with self._coming_up if isinstance(image, GuestImage) else nullcontext():
                await guest.boot(kept)
            if start and kept is None and prepare is not None:
                await prepare(guest)
                await guest.snapshot(start)
        except InputError:
            await guest.power_off()
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
        own: list[dict[str, Any]] = [{"ip": str(next(addresses))} if addresses is not None else {} for _ in names]
        await side_by_side(partial(self.guest, name, **options, **more) for name, more in zip(names, own, strict=True))
        return tuple(self.guests[name] for name in names)

    async def host(
        self, name: str, ip: str | None = None, *, mac: str = "", gateway: str = "", **port: Any
    ) -> ScapyHost:
        """Plugs in a host that is made of scapy packets. Raises InputError for a name or address that is taken."""
        async with self._new_link(name, Nic(ip, mac, port=port)) as link:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(await link.plug()))
        seed = random.Random(f"{self.seed}/{name}")
        host = ScapyHost(name, link.mac, link.interface, stream, seed, gateway=gateway or None)
        self.hosts[name] = host
        scope = self._scopes[name] = trio.CancelScope()
        self._beside.start_soon(self._run_host, host, stream, scope)
        await self._tell_names()
        return host

    async def attach(self, target: Any, **parameters: object) -> Attachment:
        """Lets in what else there is, by an endpoint URL or a socket; see VSwitch.attach."""
        return await self.switch.attach(target, **parameters)

    async def remove(self, machine: Machine) -> None:
        """Takes a machine away, with its cables; its name and address are free again."""
        if isinstance(machine, Guest):
            if self._doors is not None:
                await self._doors.remove(machine)
            await machine.power_off()
            del self.guests[machine.name]
            await self._forget(machine.links)
        elif isinstance(machine, Namespace | Program):
            await machine.end()
            self.namespaces.pop(machine.name, None)
            self.programs.pop(machine.name, None)
            await self._forget([machine.link])
        else:
            self._scopes.pop(machine.name).cancel()
            del self.hosts[machine.name]
            await self._forget([self._links[machine.name]])

    @asynccontextmanager
    async def _new_link(self, name: str, nic: Nic) -> AsyncIterator[Link]:
        """The only cable of a machine, which is forgotten if that cannot be plugged in."""
        if nic.ip == DHCP:
            raise InputError(f"{name}: only a guest asks for an address by DHCP; give this one an ip")
        link = self._link(name, f"{name}/0", nic)
        try:
            yield link
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._forget([link])
            raise

    async def _forget(self, links: Iterable[Link]) -> None:
        for link in links:
            await link.unplug()
            del self._links[link.name]
            if link.interface is not None:
                self._taken.discard(link.interface.ip)

    def begin_test(self) -> int:
        """For one of several tests on the same LAN: what others did is not in its report. Answers the moment."""
        self.timeline.forget()
        self._seen = None
        return self.now()

    def step(self, what: str) -> Step:
        """A part of a test, entered with `with`: the report of a failed test, and the capture, say when it was."""
        return Step(self.timeline, what)

    def always(self, condition: Condition, *, every: float = 0.1) -> Always:
        """Holds all the time that an `async with` block runs, or the block fails at the moment it does not.

        `condition` is a function, plain or async, that is asked every so many seconds.
        """
        return Always(condition, every, self._nursery)

    async def eventually(self, condition: Condition, *, within: float = 5.0, every: float = 0.1) -> Any:
        """The first answer of a condition that is true. Raises ConditionFailed if none is, within so many seconds."""
        __tracebackhide__ = True
        return await eventually(condition, within, every)

    async def look(self) -> None:
        """Keeps how everything looks now, for when it has ended. Only the first time counts, when a test fails."""
        if self._is_running and self._seen is None:
            self._seen = await self._sight()

    async def report(self) -> str:
        """What the test did, and how its LAN looks, or looked when it failed. May be called when it has ended."""
        return evidence.text(self.timeline, await self._sight())

    async def _sight(self) -> Evidence | None:
        return await evidence.gather(self.switch, self.guests.values()) if self._is_running else self._seen

    async def save(self, directory: Path, since: int | None = None) -> list[Path]:
        """Writes what is known into a directory: every port's frames, since a moment, as pcapng; the report; guests'
        consoles and screens.

        May be called when the LAN has ended. Answers the files.
        """
        directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
        files = [directory / "lan.pcapng", directory / REPORT]
        async with aclosing(self.switch.captures.recorded(CaptureRequest(), since=since or 0)) as blocks:
            await evidence.write_capture(files[0], blocks, self.timeline)
        seen = await self._sight()
        files[1].write_text(f"{evidence.text(self.timeline, seen)}\n")
        for guest in self.guests.values():
            files.append(directory / f"{guest.name}.console.txt")
            files[-1].write_text(guest.console)
        for name, screen in (seen.screens if seen is not None else {}).items():
            files.append(directory / f"{name}.png")
            files[-1].write_bytes(screen)
        return files

    async def _run_host(self, host: ScapyHost, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        with scope:
            async with stream:
                await host.run()

    async def open(self, name: str = "", *, mark: str = "") -> Doors:
        """Lets other programs in, by a name for their `--name`: onto the control socket, consoles and QMP."""
        if self._doors is None:
            doors = Doors(name or _unique_name(), self.switch, self._beside)
            await doors.open(mark)
            self._stack.callback(doors.close)
            self._doors = doors
            for guest in self.guests.values():
                if guest.is_up:
                    await doors.add(guest)
        return self._doors

    async def how_to_look(self) -> str:
        """Lines to paste, for another terminal. Lets other programs in."""
        doors = await self.open()
        guests = [(name, doors.path(guest, QMP)) for name, guest in self.guests.items() if name in doors.guests]
        return pause.how_to_look(doors.name, guests)

    async def pause(self, why: str = pause.WHY) -> None:
        """Stands still, while everything goes on, until somebody presses Enter at the terminal."""
        greeting = pause.greeting(why, await self.how_to_look(), "await lan.report()")
        with pause.at_terminal():
            await ask(names_of(self, self.machines), greeting, enter_ends=True)

    async def _guest_is_up(self, guest: Guest) -> None:
        await self._tell_names()
        if self._doors is not None:
            await self._doors.add(guest)

    async def _tell_names(self) -> None:
        """Has all guests know all machines by name."""
        async with self._telling, trio.open_nursery() as nursery:
            known = [
                (link.name, link.ip) for link in self._links.values() if link.ip and HOST_NAME.fullmatch(link.name)
            ]
            for guest in self.guests.values():
                nursery.start_soon(guest.tell_names, known)
            for namespace in self.namespaces.values():
                nursery.start_soon(namespace.tell_names, known)

    def _ports_of(self, station: Station) -> list[str]:
        """The names of a machine's ports, or an endpoint's own. Raises InputError for what is not on this LAN."""
        names = [link.name for link in station.links] if isinstance(station, Guest) else [name_of(station)]
        known = [*self._links, *(port.name for port in self.switch.ports())]  # a guest that is down has no ports
        known += [endpoint.name for endpoint in self.switch.endpoints()]
        for name in names:
            if name not in known:
                there = ", ".join(dict.fromkeys(known)) or "none"
                raise InputError(f"there is no port {name!r}; there are {there}")
        return names

    def _find_snapshot(
        self, name: str, machine: QemuMachine, cards: Sequence[Nic], start: str, *, needed: bool
    ) -> Snapshot | None:
        """What a guest is to go on from. Raises InputError if it is `needed` and not there, or its machine is here."""
        kept = snapshot.find(machine, [card.device for card in cards], start)
        if kept is None:
            if needed:
                raise InputError(f"{name}: {snapshot.missing(start)}, or give prepare=")
            return None
        macs = kept.facts.macs
        for link in self._links.values():
            if link.mac in macs:
                raise InputError(f"{name}: {link.name} is the machine of snapshot {start!r} already; there can be one")
        return kept

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
            if nic.mac:
                policies.read_mac(nic.mac)
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
        if ip in ("", DHCP):
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


def _cards(name: str, nics: Sequence[Nic] | None, only: Nic) -> list[Nic]:
    """A guest's cards: several, or one. Raises InputError for too many, or both."""
    if nics is None:
        return [only]
    if said := [*(["ip"] if only.ip else []), *only.port]:
        raise InputError(f"{name}: {', '.join(said)}: of which card? say it in nics, like Nic(ip=…, port={{…}})")
    if len(nics) > CARDS_MAX:
        raise InputError(f"{name}: {len(nics)} cards; a guest has room for {CARDS_MAX}")
    return list(nics)


async def side_by_side(calls: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Raises the first of what they raise, when all have ended."""
    try:
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)
    except BaseExceptionGroup as group:
        raise innermost(group) from None


def _unique_name() -> str:
    """For the LAN of a test, of which a process may have several."""
    number = next(_opened_here)
    return f"test-{os.getpid()}" + (f"-{number}" if number > 1 else "")
