"""What a service manager passes on and wants to know: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)."""

import itertools
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec
import trio

from vswitch.endpoints.url import DESCRIPTOR_NAME, EndpointConfig
from vswitch.errors import InputError
from vswitch.values import check_name

FIRST = 3
CONTROL = "control"  # the name of the descriptor that is the control socket


class Passed:
    """Descriptors that were passed on, by name. Those of one name are numbered from the second on: `lab`, `lab-2`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.by_name: dict[str, int] = {}
        if environment.get("LISTEN_PID") != str(os.getpid()) or not environment.get("LISTEN_FDS", "").isdecimal():
            return
        given = environment.get("LISTEN_FDNAMES", "").split(":")
        count = int(environment["LISTEN_FDS"])
        names = [(given[number] if number < len(given) else "") or "unknown" for number in range(count)]
        for number, name in enumerate(names):
            tries = (
                name if times == 1 else f"{name}-{times}" for times in itertools.count(1 + names[:number].count(name))
            )
            free = next(it for it in tries if it not in self.by_name and (it == name or it not in names))
            self.by_name[free] = FIRST + number

    @property
    def control(self) -> int | None:
        """The control socket's."""
        return self.by_name.get(CONTROL)

    def resolve(self, endpoint: EndpointConfig) -> EndpointConfig:
        """An endpoint with its descriptor's number, if it says a name. Raises InputError if there is none of that."""
        if endpoint.scheme != "fd" or not endpoint.path:
            return endpoint
        if endpoint.path not in self.by_name:
            there_are = ", ".join(self.by_name) or "none"
            raise InputError(
                f"fd://{endpoint.path}: no descriptor of this name was passed on; there are {there_are} "
                "(FileDescriptorName= of a socket unit)"
            )
        number = self.by_name[endpoint.path]
        return msgspec.structs.replace(endpoint, fd=number, name=endpoint.name or _name(endpoint.path))

    def others(self, endpoints: Iterable[EndpointConfig]) -> tuple[EndpointConfig, ...]:
        """Endpoints for what was passed on and that none of these is, nor the control socket."""
        used = {endpoint.fd for endpoint in endpoints if endpoint.scheme == "fd"}
        return tuple(
            EndpointConfig(
                scheme="fd", fd=number, path=name if DESCRIPTOR_NAME.fullmatch(name) else "", name=_name(name)
            )
            for name, number in self.by_name.items()
            if number not in used and name != CONTROL
        )


def _name(text: str) -> str | None:
    """What a descriptor is called, if an endpoint can be."""
    with suppress(InputError):
        return check_name(text)
    return None


def notify(state: str, wait: bool = False) -> None:
    """Tell the service manager, if there is one that wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notified:
            notified.setblocking(wait)
            notified.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


def watchdog_s() -> float | None:
    """How often the service manager wants a sign of life, in seconds; None if it does not."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or int(usec) == 0 or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(usec) / 1e6


async def keep_watchdog(period_s: float) -> None:
    """Give signs of life, twice in each period, until cancelled. Without them the service is restarted."""
    while True:
        notify("WATCHDOG=1")
        await trio.sleep(period_s / 2)
