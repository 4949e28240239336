"""A LAN by hand: that of a topology file, or two guests, until it is told to end."""

from collections.abc import Awaitable, Callable

import trio

from vswitch.control.config import SwitchConfig
from vswitch.control.runtime import BY_HAND
from vswitch.testing.lan import Lan
from vswitch.testing.link import Nic
from vswitch.testing.prompt import ask, names_of
from vswitch.testing.topology import GuestSpec, Topology, read

NAME = "lab"
GUESTS = ("a", "b")


def topology_of(file: str | None) -> Topology:
    """What is in the file, or two guests. Raises as `topology.read` does."""
    if file is not None:
        return read(file)
    return Topology(NAME, SwitchConfig(), tuple(GuestSpec(name, {"nics": [Nic()]}) for name in GUESTS))


async def run(
    topology: Topology, tell: Callable[[str], None], begun: Callable[[], Awaitable[None]], *, prompt: bool
) -> None:
    """Runs a LAN that others can look at. Returns when the person at the prompt is done, or never.

    `tell` is given lines to print, and `begun` is called, when all guests are up. Raises as `Lan.from_file` and its
    block do.
    """
    async with Lan(topology=topology, seed=topology.name, guests_may_end=True) as lan:
        await lan.open(topology.name, mark=BY_HAND)
        for machine in lan.guests.values():
            tell(f"{machine.name}  {' '.join(link.ip or link.mac for link in machine.links)}")
        for endpoint in lan.switch.endpoints():
            if not endpoint.url.startswith("fd://"):  # which are guests' cables
                tell(f"{endpoint.name}  {endpoint.url}")
        tell(f"\n{await lan.how_to_look()}\n")
        await begun()
        if not prompt:
            await trio.sleep_forever()
        await ask(names_of(lan, lan.guests), _greeting(list(lan.guests)), enter_ends=False)


def _greeting(guests: list[str]) -> str:
    named = ", ".join(["lan", *filter(str.isidentifier, guests)])
    example = f"await {guests[0]}.run('ip addr')" if guests else "await lan.guest('a')"
    return f"Python, with {named} and await, as in: {example}\nCtrl-D ends the lab."
