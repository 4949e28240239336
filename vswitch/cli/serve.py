"""`vswitch serve`: build a switch, say how to plug in, run until told to stop."""

import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TypeVar

import click
import trio

from vswitch import units
from vswitch.cli import process
from vswitch.cli.output import say
from vswitch.cli.qemu_version import QemuVersion
from vswitch.control import config as configuration
from vswitch.control import runtime
from vswitch.control.captures import CaptureRequest, FileRequest
from vswitch.control.recording import RecordLimits, read_limits
from vswitch.endpoints import qemu
from vswitch.endpoints.unix_socket import InUseError
from vswitch.endpoints.url import EndpointConfig, check_name, check_unix_path, parse
from vswitch.errors import InputError, RefusedError
from vswitch.switch import Attachment, VSwitch

QEMU_ANSWER_S = 0.3  # how long to wait for QEMU to say its version
GUESTS_SHOWN = 2  # lines that a listener prints, each with a MAC address of its own

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger("vswitch")
T = TypeVar("T")


@click.command()
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option("--config", "config_file", metavar="FILE", help="Read [switch] and [[endpoint]] tables from a TOML file.")
@click.option("--name", metavar="NAME", help="The switch's name, for other commands. [default: default]")
@click.option("--ageing", metavar="TIME", help="Forget stations silent for so long. [default: 300s]")
@click.option("--table-size", metavar="N", type=int, help="Most stations to remember. [default: 8192]")
@click.option("--capture", "capture_file", metavar="FILE", help="Write what passes to a pcapng file.")
@click.option("--record", metavar="LIMIT", help="Keep what passed last in memory, for dump: 60s or 64MiB.")
@click.option("--ready-fd", metavar="N", type=int, help="Write 'ready' to this descriptor when guests can connect.")
def serve(
    urls: tuple[str, ...],
    config_file: str | None,
    name: str | None,
    ageing: str | None,
    table_size: int | None,
    capture_file: str | None,
    record: str | None,
    ready_fd: int | None,
) -> None:
    """Run a switch that guests plug into by URL.

    Each URL is a way in: tcp://127.0.0.1:1234 and unix:///run/lan.sock listen, with ?connect they connect;
    mcast://230.0.0.1:1234 is a multicast group; udp:// and unixgram:// are datagrams; vde:///run/lan.vde is a VDE
    switch, tap://tap0 a TAP device, fd://N an inherited socket. Without URL or file: tcp://127.0.0.1:1234 and a unix
    socket.
    """
    wanted = configuration.SwitchConfig() if config_file is None else configuration.read(config_file)
    name = check_name(_first(name, wanted.name, configuration.NAME_DEFAULT))
    ageing_s = _first(_ageing(ageing), wanted.ageing_s, configuration.AGEING_DEFAULT_S)
    table_size = _first(table_size, wanted.table_size, configuration.TABLE_SIZE_DEFAULT)
    endpoints = [*wanted.endpoints, *(parse(url) for url in urls)]
    if not endpoints:
        endpoints = _default_endpoints(name)
    _check_descriptors([endpoint.fd for endpoint in endpoints if endpoint.scheme == "fd"], ready_fd)
    control = check_unix_path(str(runtime.make_directory() / f"{name}.ctl"))
    switch = VSwitch(name, ageing_s=ageing_s, table_size=table_size, record=_record(record))
    qemu_version = QemuVersion()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    process.prepare()
    signalled: list[int] = []  # before and after trio looks at signals
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, _: signalled.append(number))
    capture = None if capture_file is None else FileRequest(path=capture_file)
    trio.run(_serve, switch, endpoints, control, capture, ready_fd, qemu_version, signalled)
    for number in STOP_SIGNALS:  # more of them change nothing now
        signal.signal(number, signal.SIG_IGN)


async def _serve(
    switch: VSwitch,
    endpoints: list[EndpointConfig],
    control: str,
    capture: FileRequest | None,
    ready_fd: int | None,
    qemu_version: QemuVersion,
    signalled: list[int],
) -> None:
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, nursery.cancel_scope)
            if signalled:
                nursery.cancel_scope.cancel()
            async with switch:
                try:
                    await switch.serve_control(control)
                except InUseError:
                    raise RefusedError(f"a switch {switch.name!r} runs already; give this one another --name") from None
                if capture is not None:
                    await switch.capture_to(capture, await switch.capture(CaptureRequest()))
                attached = [await switch.attach(endpoint) for endpoint in endpoints]
                switch.check_mirrors()
                version = await qemu_version.get(QEMU_ANSWER_S)
                for endpoint in attached:
                    say(await _how_to_plug_in(switch, endpoint, version))
                say("ready")
                _tell_starter(ready_fd)
                await switch.told_to_stop()
                log.info("told to stop: stopping")
                _notify("STOPPING=1")
                nursery.cancel_scope.cancel()


async def _stop_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        log.info("%s: stopping", signal.Signals(number).name)
        _notify("STOPPING=1")
        scope.cancel()


async def _how_to_plug_in(switch: VSwitch, endpoint: Attachment, version: qemu.Version) -> str:
    """The endpoint's name and what to paste into a QEMU command line: first what suits the QEMU that was found."""
    config = endpoint.config
    several = config.listens or config.scheme == "mcast"
    macs = [await switch.next_guest(endpoint.name) for _ in range(GUESTS_SHOWN if several else 1)]
    lines = [f"{endpoint.name}  {endpoint.url}"]
    try:
        choices = [qemu.netdevs(config, version, qemu.unnamed_guest(mac)) for mac in macs]
    except InputError as error:
        return "\n".join([*lines, f"  {error}"])
    for netdevs in zip(*choices, strict=True):
        first = "  add to each guest's QEMU one of:" if several else "  add to a guest's QEMU:"
        suits = "for any QEMU" if netdevs[0].since == qemu.ANY_VERSION else "from QEMU 7.2 on"
        lines.append(first if len(lines) == 1 else f"  or, {suits}:")
        lines += [f"    {qemu.arguments(netdev.text, mac)}" for netdev, mac in zip(netdevs, macs, strict=True)]
    return "\n".join(lines)


def _default_endpoints(name: str) -> list[EndpointConfig]:
    path = runtime.make_directory() / f"{name}.sock"
    return [parse("tcp://127.0.0.1:1234"), EndpointConfig(scheme="unix", path=check_unix_path(str(path)))]


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


def _check_descriptors(guests: list[int], ready_fd: int | None) -> None:
    """Descriptors named on the command line are ones that were passed on, each named once. Raises InputError.

    Python opens none that a child would inherit: those that are inheritable were inherited.
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


def _tell_starter(ready_fd: int | None) -> None:
    _notify("READY=1")
    if ready_fd is not None:
        try:
            os.write(ready_fd, b"ready\n")
        except BrokenPipeError:
            log.warning("--ready-fd %s: nobody reads it", ready_fd)
        except OSError as error:
            raise RefusedError(f"--ready-fd {ready_fd}: cannot write to it: {error.strerror}") from None
        if ready_fd > 2:
            os.close(ready_fd)


def _notify(state: str) -> None:
    """sd_notify(3): tell the service manager, if there is one that wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
