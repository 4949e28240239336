"""user:// — a network of its own, with NAT, DHCP and DNS, in a child process (vswitch/services/user_network).

The child has the other end of an ordinary stream, so that whatever happens to it costs this port only. It is started
again when it ends; its leases and the sockets of its forwards are kept here, for the next one.
"""

import base64
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec
import trio

from vswitch.budget import Budget
from vswitch.dataplane.link import StreamLink
from vswitch.dataplane.mac_table import NO_PORT, mac_key
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.endpoints.url import EndpointConfig
from vswitch.endpoints.user import denied, dns_listener, guest_connection, internet, smb
from vswitch.endpoints.user.child import (
    Denial,
    Denied,
    Forwarded,
    Heard,
    Leased,
    Opened,
    Problem,
    Where,
    Words,
    child,
    end_of,
)
from vswitch.endpoints.user.counters import Counted, Counters, Counts
from vswitch.endpoints.user.egress import Rule
from vswitch.endpoints.user.forward import Forward
from vswitch.endpoints.user.forwards import Forwards, Known
from vswitch.endpoints.user.guest_forward import MOST, GuestForward
from vswitch.endpoints.user.holding import Holding
from vswitch.endpoints.user.leases import Lease, Leases
from vswitch.endpoints.user.other_servers import OtherServers
from vswitch.endpoints.user.watchdog import HANGS, Watchdog
from vswitch.errors import RefusedError, printable
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.ports.ports import Ports
from vswitch.sparingly import Sparingly
from vswitch.supervision import contain, keep_running

RESTART_MIN_S, RESTART_MAX_S = 0.1, 5.0
STABLE_S = 10.0
SETTLE_S = 2.0  # how long the child may take to say where a new forward leads
RESOLV_CONF = Path("/etc/resolv.conf")
RESOLV_CONF_MAX = 1 << 14
LEASES_A_MESSAGE = 200
LOOK_S = 1.0  # how often to see whether it has changed
NONSENSE = "it says what nobody understands"
DENIED_MAX, DENIED_REST_S = 50, 1.0  # events at once, and then one in so long: the child may be in a guest's hands
PROBLEM_S = 10.0  # how often the log says what the child complains of


class UserNetwork(Endpoint):
    """One port."""

    _port: SwitchPort

    def __init__(self, config: EndpointConfig, name: str, ports: Ports, sock: socket.socket | None = None) -> None:
        super().__init__(config, name, ports, sock)
        self._network = IPv4Network(config.path)
        self._leases = Leases(self._is_guests)
        self._forwards = Forwards()
        self._holding = Holding(
            ports, wanted=lambda: self._forwards.guests, lease_of=self._leases.of, vlan=lambda: self._vlan
        )
        self._counters = Counters()
        self._other_servers = OtherServers(name, ports.events)
        self.internet = internet.Internet()
        self._servers = config.user.guestfwd
        self._dns: Sequence[socket.socket] = ()  # where programs of this machine ask
        self._rules_changed = trio.Event()
        self._denied = Budget(DENIED_MAX, DENIED_REST_S)
        self._has_started = False

    @property
    def leases(self) -> list[Lease]:
        """Those that it has given, the last one last."""
        return self._leases.known

    @property
    def forwards(self) -> list[Known]:
        return self._forwards.known

    async def counts(self) -> Counts | None:
        """What its process has counted; None if there is none that answers."""
        return await self._counters.ask()

    async def forward(self, forward: Forward) -> Known:
        """Have it lead to its guest from now on, and from when that guest is there. Raises InputError, RefusedError."""
        forward.check(insecure=self.config.insecure)
        known = self._forwards.add(forward)
        self._note_forwards()
        with trio.move_on_after(SETTLE_S):
            await known.settled.wait()
        return known

    async def unforward(self, known: Known) -> None:
        """Answers when its port is free again."""
        self._forwards.remove(known)
        self._note_forwards()
        with trio.move_on_after(SETTLE_S):
            await known.gone.wait()

    def set_forwards(self, wanted: Iterable[Forward]) -> None:
        """Raises RefusedError if some cannot be had, when all others are as wanted."""
        try:
            self._forwards.become(wanted)
        finally:
            self._note_forwards()

    def set_rules(self, allow: tuple[Rule, ...], deny: tuple[Rule, ...]) -> None:
        """Have guests reach what these say from now on; connections of TCP stay."""
        options = msgspec.structs.replace(self.config.user, allow=allow, deny=deny)
        self.config = msgspec.structs.replace(self.config, user=options)
        self._rules_changed.set()
        self._rules_changed = trio.Event()

    def _note_forwards(self) -> None:
        self._holding.look()
        options = msgspec.structs.replace(self.config.user, hostfwd=self._forwards.written)
        self.config = msgspec.structs.replace(self.config, user=options)

    async def run(self, started: Callable[[], None]) -> None:
        with closing(self._leases):
            await self._leases.load(self.config.user.leases)
            await self._serve(started)

    async def _serve(self, started: Callable[[], None]) -> None:
        self._port = self.ports.add(self.name, self.name, self.config)
        try:
            self.set_forwards(self.config.user.hostfwd)
            with self._share() as servers, dns_listener.bound(self.config.user.dns_listen) as self._dns:
                self._servers = self.config.user.guestfwd + servers
                await self._keep_running(started)
        finally:
            self._forwards.close()
            self.ports.remove(self._port)

    def _share(self) -> AbstractContextManager[tuple[GuestForward, ...]]:
        options = self.config.user.absolute()
        if options.smb is None:
            return nullcontext(())
        return smb.share(options.smb, str(options.smbserver_in(self._network)))

    async def _keep_running(self, started: Callable[[], None]) -> None:
        pause_s = RESTART_MIN_S
        while True:
            since_s = trio.current_time()
            try:
                why = await self._run_child(started)
            except OSError as error:  # it cannot be started now
                if not self._has_started:
                    raise RefusedError(f"{self.url}: {error.strerror}") from None
                why = error.strerror or "it cannot be started"
            if trio.current_time() - since_s > STABLE_S:
                pause_s = RESTART_MIN_S
            log.warning("%s: the process of this network has ended: %s; it is started again", self.name, why)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_MAX_S)

    async def _run_child(self, started: Callable[[], None]) -> str:
        """One process, from its start to its end; answers why it ended."""
        with child() as (process, frames, words):
            try:
                said = await words.first(self.name, self._settings())
            except EOFError:
                said = ["", await end_of(process)]
            except (ValueError, TypeError, RecursionError):
                said = ["", NONSENSE]
            if said[0] != "ready":
                if not self._has_started:
                    raise RefusedError(f"{self.url}: {said[1]}")
                return str(said[1])
            if said[1] and not self._has_started:
                log.warning("%s: this system has no %s to confine its process", self.name, " and no ".join(said[1]))
            self.internet.say = words.say_at_once
            await self.internet.tell(words.say)
            link = StreamLink(frames, self._port.port, self.ports.bridge)
            lost = trio.CancelScope()
            self.ports.links.plug(self._port, link, "user network", lost.cancel, is_guest=False)
            why, problem = "removed", ""
            try:
                if not self._has_started:
                    started()
                    self._has_started = True
                with lost, self._counters.of(words.say):
                    problem = await self._talk(words)
                why = "the process of this network has ended"
            finally:
                self.ports.links.unplug(self._port, why)
            return problem or await end_of(process)

    async def _talk(self, words: Words) -> str:
        """Until the child hangs up, hangs, or says nonsense: the latter two are the answer."""
        watchdog = Watchdog(words.say)
        tasks: Mapping[str, Callable[[], Awaitable[None]]] = {
            "forwards": partial(self._forwards.keep_told, words.say),
            "guests of the forwards": self._holding.keep,
            "listener for DNS": partial(dns_listener.lend, self._dns, words.say),
            "name servers": partial(_keep_told_servers, words),
            "leases": self._leases.keep_saved,
            "rules": partial(self._keep_told_rules, words),
            "watchdog": watchdog.watch,
        }
        async with trio.open_nursery() as nursery:
            for what, task in tasks.items():
                nursery.start_soon(keep_running, self.ports.failures, f"the {what} of {self.name}", task)
            problem = HANGS
            with watchdog.hung:
                problem = await self._listen(words, watchdog, nursery)
            nursery.cancel_scope.cancel()
        return problem

    async def _listen(self, words: Words, watchdog: Watchdog, nursery: trio.Nursery) -> str:
        """Answers what the child asks."""
        problems = Sparingly(log, PROBLEM_S)
        try:
            while True:
                said, sock = await words.hear()
                watchdog.heard()
                with sock or nullcontext():
                    if isinstance(said, Problem):
                        problems.say("%s: %s", self.name, printable(said.text))
                    elif isinstance(said, Where):
                        await words.say(self._found(said))
                    elif isinstance(said, Opened):
                        self._connect(said.number, sock, nursery)
                    elif isinstance(said, Denied):
                        self._say_denied(said.denial)
                    elif isinstance(said, Forwarded):
                        self._forwards.served(said.served)
                        self._holding.look()
                    elif isinstance(said, Leased):
                        self._keep(said.lease)
                    elif isinstance(said, Counted):
                        self._counters.heard(said)
                    elif isinstance(said, Heard):
                        port = self._port_behind(said.server.mac)
                        self._other_servers.heard(said.server, "" if port is None else port.name)
        except EOFError:
            return ""
        except (ValueError, RecursionError):  # it may be in the hands of a guest
            return NONSENSE

    def _keep(self, lease: Lease) -> None:
        port = self.ports.named(lease.port)
        if port is not None:  # else it has gone meanwhile
            self._leases.keep(lease)
            self._holding.leased(lease, port)

    async def _keep_told_rules(self, words: Words) -> None:
        while True:
            changed, options = self._rules_changed, self.config.user
            told = [[rule.told for rule in rules] for rules in (options.allow, options.deny)]
            await words.say(json.dumps(["rules", *told]).encode())
            await changed.wait()

    def _say_denied(self, denial: Denial) -> None:
        text = denied.text(denial, self.config.user.deny)
        self._denied.leave_out(denial.more)
        more = self._denied.take(trio.current_time()) if text else None
        if more is not None:
            port, lease = self._port_behind(denial.mac), self._leases.of(denial.mac)
            place = self.name if port is None else port.name
            guest = f"{lease.name} ({denial.mac})" if lease is not None and lease.name else denial.mac
            said = f"{place}: {guest} {text}" + (f" (and {more} more before)" if more else "")
            self.ports.events.say("denied", place, said, ports=[place], mac=denial.mac)

    def _connect(self, number: int, sock: socket.socket | None, nursery: trio.Nursery) -> None:
        """A guest's connection to a server that is not there; more than there may be are cut."""
        if sock is None or len(nursery.child_tasks) > MOST:
            return
        serve: Callable[[socket.socket], Awaitable[None]]
        if handler := self.internet.handler(number):
            serve, what = partial(internet.serve, handler), "a made-up server"
        elif number < len(self._servers):
            serve, what = partial(guest_connection.serve, self._servers[number], self.name), str(self._servers[number])
        else:
            return
        connection = socket.socket(fileno=sock.detach())
        nursery.start_soon(contain, self.ports.failures, f"a connection to {what} of {self.name}", serve, connection)

    def _found(self, asked: Where) -> bytes:
        port = self._port_of(asked.mac)
        is_taken = port_of_name(self.ports, asked.name) not in ("", port)
        return json.dumps(["found", asked.mac, port, asked.name, is_taken]).encode()

    def _is_guests(self, ip: IPv4Address) -> bool:
        options, network = self.config.user, self._network
        return ip in network and ip not in options.taken(network)

    def _port_of(self, mac: str) -> str:
        """Behind which port a station is; none if it may have no lease there, as another port, which is up, has it."""
        port = self._port_behind(mac)
        if port is None:
            return ""
        held = self._leases.of(mac)
        if held is not None and held.port != port.name:
            holder = self.ports.named(held.port)
            if holder is not None and holder.up:
                self._turn_away(f"{mac} behind {port.name}", f"{holder.name} has its lease")
                return ""
        return port.name

    def _port_behind(self, mac: str) -> SwitchPort | None:
        """Where a station is; None if that is not known, nor its address."""
        if not mac:
            return None
        index = self.ports.table.lookup(mac_key(self._vlan, int(mac.replace(":", ""), 16)), now_ms())
        return None if index == NO_PORT else self.ports.by_index(index)

    @property
    def _vlan(self) -> int:
        policy = self._port.policy
        return policy.vlan or policy.native or 1

    def _settings(self) -> Iterator[bytes]:
        """What a child is told first: leases in pieces that a message can carry, the last of which is empty."""
        options, network = self.config.user, self._network
        host = options.host_in(network)
        mac = b"\x52\x55" + host.packed if options.mac is None else options.mac.to_bytes(6)
        settings = {
            "network": str(network),
            "host": str(host),
            "dns": str(options.dns_in(network)),
            "dhcpstart": str(options.dhcpstart_in(network)),
            "mac": base64.b64encode(mac).decode(),
            "network6": str(options.ipv6_net),
            "host6": str(options.host6),
            "dns6": str(options.dns6),
            "servers": [{"ip": str(server.address(network)), "port": server.port} for server in self._servers],
            "reserve": {item.who: str(item.ip) for item in options.reserve},
            "allow": [rule.told for rule in options.allow],
            "deny": [rule.told for rule in options.deny],
            "tftp": base64.b64encode(os.fsencode(options.absolute().tftp or "")).decode(),
        }
        told = (
            *("domainname", "dnssearch", "hostname", "tftp_server_name", "bootfile"),
            *("mtu", "ipv4", "ipv6", "dhcp", "restrict", "internet", "host_access"),
        )
        yield json.dumps(settings | {name: getattr(options, name) for name in told}).encode()
        leases = [msgspec.structs.asdict(lease) for lease in self._leases.known]
        for at in range(0, len(leases), LEASES_A_MESSAGE):
            yield json.dumps(leases[at : at + LEASES_A_MESSAGE]).encode()
        yield b"[]"


def port_of_name(ports: Ports, name: str) -> str:
    """The port that a guest's name is another way to write, or nothing (services/user_network/names.py)."""
    return next((port.name for port in ports if port.name.replace(".", "-").replace("_", "-").lower() == name), "")


async def _keep_told_servers(words: Words) -> None:
    """Which name servers this machine has, as that changes."""
    servers = b""
    while True:
        await trio.sleep(LOOK_S)
        now = await trio.to_thread.run_sync(resolv_conf, abandon_on_cancel=True)
        if now != servers:
            servers = now
            await words.say(json.dumps(["servers", now.decode(errors="replace")]).encode())


def resolv_conf() -> bytes:
    """What names this machine's DNS servers; the child can read no file."""
    try:
        with RESOLV_CONF.open("rb") as file:
            return file.read(RESOLV_CONF_MAX)
    except OSError:
        return b""
