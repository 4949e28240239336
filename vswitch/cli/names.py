"""Names of switches, ports and endpoints: what words of a command line mean, and what a shell may offer for them."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click

from vswitch.control import client, model, operations
from vswitch.errors import InputError, VSwitchError
from vswitch.values import endpoint_of


class Chosen(NamedTuple):
    """What words choose: ports and endpoints, and a filter in the pcap language; `known` is what there is."""

    ports: tuple[str, ...]
    filter: str
    known: tuple[str, ...]

    def explain(self, error: InputError) -> InputError:
        """What is wrong, if a filter is: where it starts with a word that starts none, a port may have been meant."""
        from vswitch.edges.packet_filter import PacketFilter

        first = self.filter.partition(" ")[0]
        try:
            PacketFilter(first)
        except InputError:
            if "syntax error" in str(error):
                there_are = ", ".join(self.known) or "none"
                return InputError(f"there is no port or endpoint {first!r}, there are {there_are}; and {error}")
        except VSwitchError:  # no libpcap
            pass
        return error


def endpoints(path: Path) -> list[model.EndpointInfo]:
    """The endpoints of the switch at `path`. Raises RefusedError."""
    return client.call(path, operations.ENDPOINTS)


def choose(path: Path, words: Sequence[str]) -> Chosen:
    """The words that name ports or endpoints of the switch come first, the rest is a filter. Raises RefusedError."""
    known = _known(path)
    # A port of a listener may be gone.
    number = next((at for at, word in enumerate(words) if not {word, endpoint_of(word)} & set(known)), len(words))
    return Chosen(tuple(words[:number]), " ".join(words[number:]), known)


def _known(path: Path) -> tuple[str, ...]:
    """The endpoints of a switch, and its ports. Raises RefusedError."""
    ports = client.call(path, operations.PORTS)
    return tuple(dict.fromkeys([*(each.name for each in endpoints(path)), *(port.name for port in ports)]))


def complete_switch(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The switches that may be meant by --name."""
    with suppress(VSwitchError):
        return [name for name in client.by_name() if name.startswith(incomplete)]
    return []


def complete_port(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The ports and endpoints that may be meant, of the switch that --name says or of all that run."""
    found: set[str] = set()
    with suppress(VSwitchError):
        wanted = context.params.get("name")
        for name, path in client.by_name().items():
            if wanted in (None, name):
                with suppress(VSwitchError):  # one that has just ended, or is of another version
                    found.update(_known(path))
    return sorted(name for name in found if name.startswith(incomplete))
