"""What all endpoints have in common."""

import abc
import logging
import socket
from collections.abc import Callable

from vswitch.endpoints.url import EndpointConfig
from vswitch.ports.ports import Ports

log = logging.getLogger("vswitch")


class Endpoint(abc.ABC):
    """One way in. `config` says what was asked for; a port number 0 in it is replaced by the one chosen.
    `sock` is an open socket to work on, for endpoints that do not make their own; it belongs to the endpoint.

    `run` is the endpoint's whole life. It calls `started()` when peers can come in, and goes on until it is
    cancelled; then nothing of it is left: no port, descriptor, file or task.
    """

    def __init__(self, config: EndpointConfig, name: str, ports: Ports, sock: socket.socket | None = None) -> None:
        self.config = config
        self.name = name
        self.ports = ports
        self.sock = sock
        self.listens = config.listens  # each of its peers gets a port of its own
        self.goes_with_peer = False  # if nobody can come back

    @property
    def can_start_again(self) -> bool:
        """Whether there is something to start with, if it fails."""
        return self.sock is None

    @property
    def url(self) -> str:
        return self.config.url

    def _turn_away(self, peer: str, why: str) -> None:
        """Say that a peer may not come in."""
        self.ports.events.say("turned_away", self.name, f"{self.name}: turned away {peer}: {why}", ports=[self.name])

    @abc.abstractmethod
    async def run(self, started: Callable[[], None]) -> None:
        """Serve until cancelled. Raises InputError or RefusedError before it has started."""
