"""user:// — a network of its own, with NAT, DHCP and DNS, in a child process (vswitch/services/user_network).

The child has the other end of an ordinary stream, so that whatever happens to it costs this port only. It is started
again when it ends; leases are kept here, and told the next one.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any

import msgspec
import trio

import vswitch
from vswitch.dataplane.link import StreamLink
from vswitch.dataplane.mac_table import NO_PORT, mac_key
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.errors import RefusedError, printable
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.sparingly import Sparingly

PROGRAM = "vswitch.services.user_network"
START_TIMEOUT_S = 10.0
RESTART_MIN_S, RESTART_MAX_S = 0.1, 5.0
STABLE_S = 10.0
WORD_MAX = 1 << 16
LEASES_MAX = 1024  # that are remembered
LEASE_S_MAX = 86400.0
RESOLV_CONF = Path("/etc/resolv.conf")
RESOLV_CONF_MAX = 1 << 14
LOOK_S = 1.0  # how often to see whether it has changed
NEEDED = ("PATH", "LD_", "PYTHON", "LANG", "LC_")  # of the environment
NONSENSE = "it says what nobody understands"
PROBLEM_S = 10.0  # how often the log says what the child complains of

Mac = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]


class Lease(msgspec.Struct):
    """As the child tells it, and the next one is told."""

    mac: Mac
    ip: Annotated[str, msgspec.Meta(max_length=15)]
    port: Annotated[str, msgspec.Meta(max_length=100)]
    name: Annotated[str, msgspec.Meta(max_length=63)]
    until_s: float


class Where(msgspec.Struct, tag=True, array_like=True):
    """The child asks behind which port a station is."""

    mac: Mac


class Leased(msgspec.Struct, tag=True, array_like=True):
    lease: Lease


class Problem(msgspec.Struct, tag=True, array_like=True):
    """What a person is to know."""

    text: Annotated[str, msgspec.Meta(max_length=500)]


_SAID = msgspec.json.Decoder(Where | Leased | Problem)


class UserNetwork(Endpoint):
    """One port."""

    _port: SwitchPort

    async def run(self, started: Callable[[], None]) -> None:
        self._leases: dict[str, Lease] = {}  # by MAC address
        self._has_started = False
        self._port = self.ports.add(self.name, self.name, self.config)
        try:
            await self._keep_running(started)
        finally:
            self.ports.remove(self._port)

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
            await _say(words, self._settings())
            try:
                said = await _first_word(words, self.name)
            except EOFError:
                said = ["", await _end_of(process)]
            except (ValueError, TypeError, RecursionError):
                said = ["", NONSENSE]
            if said[0] != "ready":
                if not self._has_started:
                    raise RefusedError(f"{self.url}: {said[1]}")
                return str(said[1])
            if said[1] and not self._has_started:
                log.warning("%s: this system has no %s to confine its process", self.name, " and no ".join(said[1]))
            link = StreamLink(frames, self._port.port, self.ports.bridge)
            lost = trio.CancelScope()
            self.ports.links.plug(self._port, link, "user network", lost.cancel, is_guest=False)
            try:
                if not self._has_started:
                    started()
                    self._has_started = True
                with lost:
                    await self._listen(words)
            except (ValueError, RecursionError):  # it may be in the hands of a guest
                return NONSENSE
            finally:
                self.ports.links.unplug(self._port, "the process of this network has ended")
            return await _end_of(process)

    async def _listen(self, words: trio.socket.SocketType) -> None:
        """Answers what the child asks, until it hangs up. Raises ValueError if it says anything else."""
        problems = Sparingly(log, PROBLEM_S)
        servers, look_at_s = b"", trio.current_time()
        while True:
            data = None
            with trio.move_on_at(look_at_s):
                data = await _hear(words)
            if trio.current_time() >= look_at_s:
                now = await trio.to_thread.run_sync(resolv_conf, abandon_on_cancel=True)
                if now != servers:
                    servers = now
                    await _say(words, json.dumps(["servers", now.decode(errors="replace")]).encode())
                look_at_s = trio.current_time() + LOOK_S
            if data is None:
                continue
            if not data:
                return
            said = _SAID.decode(data)
            if isinstance(said, Where):
                await _say(words, json.dumps(["found", said.mac, self._port_of(said.mac)]).encode())
                continue
            if isinstance(said, Problem):
                problems.say("%s: %s", self.name, printable(said.text))
                continue
            self._keep(said.lease)

    def _keep(self, lease: Lease) -> None:
        """Raises ValueError if no such lease can be."""
        options, network, ip = self.config.user, IPv4Network(self.config.path), IPv4Address(lease.ip)
        if ip not in network or ip in (options.host_in(network), options.dns_in(network)):
            raise ValueError("a lease of no guest's address")
        lease.until_s = min(lease.until_s, time.time() + LEASE_S_MAX)
        for other in [other for other in self._leases.values() if lease.mac == other.mac or lease.ip == other.ip]:
            del self._leases[other.mac]
        self._leases[lease.mac] = lease
        if len(self._leases) > LEASES_MAX:
            del self._leases[next(iter(self._leases))]

    def _port_of(self, mac: str) -> str:
        """Behind which port a station is; none if it may have no lease there, as another port, which is up, has it."""
        index = self.ports.table.lookup(mac_key(self._vlan, int(mac.replace(":", ""), 16)), now_ms())
        port = None if index == NO_PORT else self.ports.by_index(index)
        if port is None:
            return ""
        held = self._leases.get(mac)
        if held is not None and held.port != port.name:
            holder = self.ports.named(held.port)
            if holder is not None and holder.up:
                self._turn_away(f"{mac} behind {port.name}", f"{holder.name} has its lease")
                return ""
        return port.name

    @property
    def _vlan(self) -> int:
        policy = self._port.policy
        return policy.vlan or policy.native or 1

    def _settings(self) -> bytes:
        options, network = self.config.user, IPv4Network(self.config.path)
        host = options.host_in(network)
        mac = b"\x52\x55" + host.packed if options.mac is None else options.mac.to_bytes(6)
        settings = {
            "network": str(network),
            "host": str(host),
            "dns": str(options.dns_in(network)),
            "dhcpstart": str(options.dhcpstart_in(network)),
            "mac": base64.b64encode(mac).decode(),
            "reserve": {item.who: str(item.ip) for item in options.reserve},
            "forwards": [msgspec.structs.asdict(forward) for forward in options.hostfwd],
            "leases": [msgspec.structs.asdict(lease) for lease in self._leases.values()],
        }
        told = ("domainname", "mtu", "dhcp", "restrict", "host_access")
        return json.dumps(settings | {name: getattr(options, name) for name in told}).encode()


@contextmanager
def child() -> Iterator[tuple["subprocess.Popen[bytes]", socket.socket, trio.socket.SocketType]]:
    """A process, which ends with the block, and our ends of its frames and of its words."""
    frames, its_frames = socket.socketpair()
    words, its_words = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with frames, words, its_frames, its_words:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM, str(its_frames.fileno()), str(its_words.fileno())],
            pass_fds=[its_frames.fileno(), its_words.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: text for name, text in os.environ.items() if name.startswith(NEEDED)}
            | {"PYTHONPATH": _python_path()},
            start_new_session=True,
        )
        its_frames.close()
        its_words.close()
        try:
            yield process, frames, trio.socket.from_stdlib_socket(words)
        finally:
            process.kill()
            process.wait()


def _python_path() -> str:
    """So that it is this vswitch, wherever that is."""
    root = str(Path(vswitch.__file__ or "").parent.parent)
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


def resolv_conf() -> bytes:
    """What names this machine's DNS servers; the child can read no file."""
    try:
        with RESOLV_CONF.open("rb") as file:
            return file.read(RESOLV_CONF_MAX)
    except OSError:
        return b""


async def _say(words: trio.socket.SocketType, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it has ended
        await words.send(data)


async def _hear(words: trio.socket.SocketType) -> bytes:
    """The next word; empty if there is none any more."""
    try:
        return await words.recv(WORD_MAX)
    except ConnectionResetError:  # there is one of ours that it has not read
        return b""


async def _first_word(words: trio.socket.SocketType, name: str) -> list[Any]:
    """That it is ready, or why not; logs problems. Raises EOFError if there is none."""
    with trio.move_on_after(START_TIMEOUT_S):
        while data := await _hear(words):
            what, value = json.loads(data)
            if what != "Problem":
                return [what, value if what == "ready" else printable(str(value))]
            log.warning("%s: %s", name, printable(str(value)))
        raise EOFError
    return ["", f"it was not ready within {START_TIMEOUT_S:g} s"]


async def _end_of(process: "subprocess.Popen[bytes]") -> str:
    """Why a process has ended, which it does in a moment."""
    descriptor = os.pidfd_open(process.pid)
    try:
        with trio.move_on_after(1):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    status = process.poll()
    if status is None:
        return "it hung up"
    if status >= 0:
        return f"status {status}"
    return signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
