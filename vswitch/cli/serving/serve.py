"""`vswitch serve`: build a switch, say how to plug in, run until told to stop."""

import fcntl
import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import msgspec
import trio

from vswitch import units
from vswitch.cli import process
from vswitch.cli.output import in_background, said, say
from vswitch.cli.qemu_version import QemuVersion
from vswitch.cli.serving import log_format
from vswitch.cli.serving.activation import Passed, keep_watchdog, notify, watchdog_s
from vswitch.control import captures, client, runtime
from vswitch.control import config as configuration
from vswitch.control.capture_requests import CaptureRequest, FileRequest
from vswitch.control.config import SwitchConfig
from vswitch.control.recording import RecordLimits, check_fits, read_limits
from vswitch.endpoints.guests import qemu
from vswitch.endpoints.unix_socket import InUseError
from vswitch.endpoints.url import NETWORK_DEFAULT, EndpointConfig, parse
from vswitch.errors import InputError, RefusedError, VSwitchError, printable
from vswitch.ports.policy import remarks
from vswitch.supervision import contain
from vswitch.switch import Attachment, VSwitch
from vswitch.switch.configuration import Read
from vswitch.values import check_name

QEMU_ANSWER_S = 0.3  # how long to wait for QEMU to say its version
GUESTS_SHOWN = 2  # lines that a listener prints, each with a MAC address of its own
SAID_S = 1.0  # how long to wait for somebody to read what is printed, before others are told that it is ready

log = logging.getLogger("vswitch")
T = TypeVar("T")


@click.command()
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(),
    help="Read [switch] and [[endpoint]] tables from a TOML file.",
)
@click.option("--name", metavar="NAME", help="The switch's name, for other commands. [default: default]")
@click.option("--ageing", metavar="TIME", help="Forget stations silent for so long. [default: 300s]")
@click.option("--table-size", metavar="N", type=int, help="Most stations to remember. [default: 8192]")
@click.option(
    "--capture", "capture_file", metavar="FILE", type=click.Path(), help="Write what passes to a pcapng file."
)
@click.option("--capture-memory", metavar="SIZE", help="What all captures may hold together. [default: 64MiB]")
@click.option("--record", metavar="LIMIT", help="Keep what passed last in memory, for dump: 60s or 64MiB.")
@click.option("--metrics", metavar="ADDRESS", help="Answer Prometheus there, as on 127.0.0.1:9160.")
@click.option("--log-format", "logs", type=click.Choice(["text", "json"]), default="text", help="How log lines look.")
@click.option(
    "--log-level", "level", type=click.Choice(list(log_format.LEVELS)), default="info", help="What is logged."
)
@click.option("--no-user", is_flag=True, help="Without URL or file: no network with DHCP, names and NAT.")
@click.option("--ready-fd", metavar="N", type=int, help="Write 'ready' to this descriptor when guests can connect.")
def serve(
    urls: tuple[str, ...],
    config_file: str | None,
    name: str | None,
    ageing: str | None,
    table_size: int | None,
    capture_file: str | None,
    capture_memory: str | None,
    record: str | None,
    metrics: str | None,
    logs: str,
    level: str,
    no_user: bool,
    ready_fd: int | None,
) -> None:
    """Run a switch that guests plug into by URL.

    Each URL is a way in: tcp://127.0.0.1:1234 and unix:///run/lan.sock listen, with ?connect they connect;
    mcast://230.0.0.1:1234 is a multicast group; udp:// and unixgram:// are datagrams; vde:///run/lan.vde is a VDE
    switch, tap://tap0 a TAP device, fd://N an inherited socket; user://10.0.2.0/24 is a network with DHCP, names and
    NAT. Without URL or file: tcp://127.0.0.1:1234, a unix socket, and that network.
    """
    said = SwitchConfig(
        name=name,
        ageing_s=_ageing(ageing),
        table_size=table_size,
        capture=capture_file,
        capture_memory=_capture_memory(capture_memory),
        record=_record(record),
        metrics=_metrics(metrics),
        endpoints=tuple(parse(url) for url in urls),
    )
    passed = Passed(os.environ)
    configure = partial(_configuration, said, config_file, passed)
    asked = configure()
    wanted = _with_endpoints(asked)
    assert wanted.name is not None
    _check_descriptors([endpoint.fd for endpoint in wanted.endpoints if endpoint.scheme == "fd"], ready_fd)
    control = runtime.socket_path(f"{wanted.name}.ctl")
    switch = VSwitch(
        wanted.name,
        ageing_s=_first(wanted.ageing_s),
        table_size=_first(wanted.table_size),
        record=_fitting(wanted.record, f"{config_file}: [switch] record" if record is None else "--record"),
        capture_memory=_first(wanted.capture_memory),
    )
    qemu_version = QemuVersion()
    process.prepare()
    read = None if config_file is None else lambda: _with_endpoints(configure())
    with_user = not (no_user or asked.endpoints)
    running = _Running(switch, control, passed.control, ready_fd, qemu_version, with_user=with_user)
    with in_background(log_format.formatter(logs), log_format.LEVELS[level]):
        process.run(
            running.serve,
            wanted,
            read,
            told=partial(notify, "STOPPING=1"),
            reload=None if read is None else running.reload,
        )


class _Running:
    """The switch while it runs."""

    def __init__(
        self,
        switch: VSwitch,
        control: str,
        control_fd: int | None,
        ready_fd: int | None,
        qemu_version: QemuVersion,
        *,
        with_user: bool,
    ) -> None:
        self._switch = switch
        self._control = control
        self._control_fd = control_fd
        self._ready_fd = ready_fd
        self._qemu_version = qemu_version
        self._with_user = with_user
        self._begun = trio.Event()

    async def serve(self, wanted: SwitchConfig, read: Read | None) -> None:
        """Returns when a peer tells it to stop."""
        switch = self._switch
        async with switch, trio.open_nursery() as nursery:
            try:
                await switch.serve_control(self._control, self._control_fd)
            except InUseError:
                raise RefusedError(f"a switch {switch.name!r} runs already; give this one another --name") from None
            _warn_of_namesakes(Path(self._control))
            if wanted.capture is not None:
                await switch.captures.write(
                    FileRequest(path=wanted.capture), await switch.captures.prepare(CaptureRequest())
                )
            if wanted.metrics is not None:
                log.info("metrics: %s", await switch.serve_metrics(wanted.metrics))
            attached = await switch.configuration.begin(wanted, read)
            async with trio.open_nursery() as side_by_side:
                if self._with_user:
                    side_by_side.start_soon(self._attach_user, attached)
                version = await trio.to_thread.run_sync(self._qemu_version.get, QEMU_ANSWER_S, abandon_on_cancel=True)
            self._begun.set()
            for endpoint in attached:
                say(await _how_to_plug_in(switch, endpoint, version))
            say("ready")
            with trio.move_on_after(SAID_S):
                await said()
            nursery.start_soon(_tell_starter, self._ready_fd)
            if (period_s := watchdog_s()) is not None:
                nursery.start_soon(keep_watchdog, period_s)
            await switch.told_to_stop()
            log.info("told to stop: stopping")
            notify("STOPPING=1")
            nursery.cancel_scope.cancel()

    async def _attach_user(self, attached: list[Attachment]) -> None:
        """A switch whose guests have addresses and names without it is one still."""
        try:
            attached.append(await self._switch.attach(f"user://{NETWORK_DEFAULT}"))
        except RefusedError as error:
            log.warning("guests get no addresses: %s", error)

    async def reload(self) -> None:
        """What SIGHUP asks for: the log says what has changed, or why nothing has."""
        await contain(self._switch.failures, "reload", self._reload)

    async def _reload(self) -> None:
        await self._begun.wait()
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            changes = await self._switch.configuration.reload()
        except VSwitchError as error:
            log.warning("reload: %s", error)
            return
        finally:
            notify("READY=1")
        lines = [line for change in changes for line in change.diff()]
        for line in lines or ["nothing changes"]:
            log.info("reload: %s", printable(line))


def _configuration(said: SwitchConfig, config_file: str | None, passed: Passed) -> SwitchConfig:
    """What the command line says, or else the file, or what a service manager passed on.

    What none of them says is as usual, but for endpoints, of which there may be none.
    """
    read = SwitchConfig() if config_file is None else configuration.read(config_file)
    name = check_name(_first(said.name, read.name, configuration.NAME_DEFAULT))
    capture = read.capture if said.capture is None else said.capture
    endpoints = tuple(map(passed.resolve, _endpoints(read.endpoints, said.endpoints)))
    endpoints += passed.others(endpoints)
    if capture == "-":
        raise InputError("capture to -: standard output has the lines to paste; use: vswitch capture -w -")
    return SwitchConfig(
        name=name,
        ageing_s=_first(said.ageing_s, read.ageing_s, configuration.AGEING_DEFAULT_S),
        table_size=_first(said.table_size, read.table_size, configuration.TABLE_SIZE_DEFAULT),
        capture=capture,
        capture_memory=_first(said.capture_memory, read.capture_memory, captures.BUDGET_DEFAULT),
        record=said.record or read.record,
        metrics=said.metrics or read.metrics,
        endpoints=endpoints,
    )


def _with_endpoints(config: SwitchConfig) -> SwitchConfig:
    """With the usual ones if it has none."""
    if config.endpoints:
        return config
    socket = EndpointConfig(scheme="unix", path=runtime.socket_path(f"{config.name}.sock"))
    return msgspec.structs.replace(config, endpoints=(parse("tcp://127.0.0.1:1234"), socket))


def _endpoints(read: tuple[EndpointConfig, ...], said: tuple[EndpointConfig, ...]) -> tuple[EndpointConfig, ...]:
    """Those of the file, and those of the command line that it has not, as it may after `save`."""
    places = {endpoint.place for endpoint in read}
    return (*read, *(endpoint for endpoint in said if endpoint.place not in places))


def _warn_of_namesakes(control: Path) -> None:
    """Another environment has another directory, where a switch may have the same name."""
    for path in client.running():
        if path.name == control.name and path.parent != control.parent:
            log.warning(
                "another switch %r runs, in %s; commands mean the one in the directory of their environment, which for "
                "this one is %s: another --name tells them apart",
                path.stem,
                path.parent,
                control.parent,
            )


async def _how_to_plug_in(switch: VSwitch, endpoint: Attachment, version: qemu.Version) -> str:
    """The endpoint's name and what to paste into a QEMU command line: first what suits the QEMU that was found."""
    config, policy = endpoint.config, endpoint.config.policy
    several = config.listens or config.scheme == "mcast"
    count = GUESTS_SHOWN if several else 1
    if policy.senders:
        count = min(count, len(policy.senders))
    if config.scheme == "mcast" and policy.max_macs is not None:  # its guests share a port
        count = min(count, policy.max_macs + len(policy.static))
    macs = [await switch.stations.next_guest(endpoint.name) for _ in range(count)]
    lines = [f"{endpoint.name}  {endpoint.url}", *(f"  {remark}" for remark in remarks(policy))]
    try:
        choices = [qemu.netdevs(config, version, qemu.unnamed_guest(mac)) for mac in macs]
    except InputError as error:
        return "\n".join([*lines, f"  {error}"])
    mtu = qemu.host_mtu(policy, switch.attachments.configs().values())
    lines += [f"  {note}" for note in choices[0][0].notes]
    title = "  add to each guest's QEMU one of:" if several else "  add to a guest's QEMU:"
    for number, netdevs in enumerate(zip(*choices, strict=True)):
        suits = "for any QEMU" if netdevs[0].since == qemu.ANY_VERSION else "from QEMU 7.2 on"
        lines.append(title if number == 0 else f"  or, {suits}:")
        for netdev, mac in zip(netdevs, macs, strict=True):
            lines.append(f"    {qemu.arguments(netdev, mac, mtu)}")
    return "\n".join(lines)


def _first(*values: T | None) -> T:
    """The first value that was said; the last one always is."""
    return next(value for value in values if value is not None)


def _ageing(text: str | None) -> float | None:
    try:
        return None if text is None else units.duration(text)
    except InputError as error:
        raise InputError(f"--ageing: {error}") from None


def _record(text: str | None) -> RecordLimits | None:
    try:
        return None if text is None else read_limits(text)
    except InputError as error:
        raise InputError(f"--record: {error}") from None


def _metrics(text: str | None) -> str | None:
    try:
        return None if text is None else configuration.check_address(text)
    except InputError as error:
        raise InputError(f"--metrics: {error}") from None


def _fitting(limits: RecordLimits | None, where: str) -> RecordLimits | None:
    try:
        return None if limits is None else check_fits(limits)
    except RefusedError as error:
        raise RefusedError(f"{where}: {error}") from None


def _capture_memory(text: str | None) -> int | None:
    try:
        return None if text is None else captures.check_budget(units.size(text))
    except InputError as error:
        raise InputError(f"--capture-memory: {error}") from None


def _check_descriptors(guests: list[int], ready_fd: int | None) -> None:
    """Descriptors named on the command line are ones that were passed on, each named once. Raises InputError.

    Only inherited descriptors are inheritable: Python marks the ones it opens close-on-exec.
    """
    for fd in guests:
        if not _is_inherited(fd):
            raise InputError(f"fd://{fd}: no such descriptor; pass one on to vswitch, as with {fd}<&5")
        if guests.count(fd) > 1:
            raise InputError(f"fd://{fd} is given twice; a descriptor makes one endpoint")
    if ready_fd is not None:
        if ready_fd in guests:
            raise InputError(f"--ready-fd {ready_fd}: is a guest's descriptor, fd://{ready_fd}; pass on another one")
        if not _is_inherited(ready_fd):
            raise InputError(f"--ready-fd {ready_fd}: no such descriptor; pass one on to vswitch, as with 5>ready")
        if fcntl.fcntl(ready_fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise InputError(f"--ready-fd {ready_fd}: cannot be written to; pass one on that can, as with 5>ready")


def _is_inherited(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except (OSError, OverflowError):
        return False


async def _tell_starter(ready_fd: int | None) -> None:
    """In a thread: a full pipe, or a service manager that does not read, must not hold anything up."""
    await trio.to_thread.run_sync(notify, "READY=1", True, abandon_on_cancel=True)
    if ready_fd is not None:
        try:
            await trio.to_thread.run_sync(os.write, ready_fd, b"ready\n", abandon_on_cancel=True)
        except BrokenPipeError:
            log.warning("--ready-fd %s: nobody reads it", ready_fd)
        except OSError as error:
            raise RefusedError(f"--ready-fd {ready_fd}: cannot write to it: {error.strerror}") from None
        if ready_fd > 2:
            os.close(ready_fd)
