"""The user networks of a switch: who has a lease, what passes the NAT, and what leads to guests."""

import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

import msgspec
import trio

from vswitch.control import model
from vswitch.endpoints.user import counters, internet
from vswitch.endpoints.user import forward as forwards
from vswitch.endpoints.user.counters import Traffic
from vswitch.endpoints.user.endpoint import UserNetwork
from vswitch.endpoints.user.forwards import Known
from vswitch.errors import InputError, MissingError
from vswitch.switch.attachments import Attachments


class UserNetworks:
    def __init__(self, attachments: Attachments) -> None:
        self._attachments = attachments

    def leases(self) -> list[model.LeaseInfo]:
        """Those that are not over, by network and address."""
        now_s = time.time()
        return [
            model.LeaseInfo(
                network=network.name,
                mac=lease.mac,
                ip=lease.ip,
                name=lease.name,
                domain=network.config.user.domainname,
                port=lease.port,
                left_s=round(lease.until_s - now_s, 3),
            )
            for network in self._networks()
            for lease in network.leases
            if lease.until_s > now_s
        ]

    async def nat(self) -> list[model.NatInfo]:
        """What has passed each network's NAT, and what was dropped; asks their processes, all at a time."""
        networks, found = list(self._networks()), dict[str, model.NatInfo]()

        async def ask(network: UserNetwork) -> None:
            found[network.name] = _counted(network, await network.counts())

        async with trio.open_nursery() as nursery:
            for network in networks:
                nursery.start_soon(ask, network)
        return [found[network.name] for network in networks]

    def forwards(self) -> list[model.ForwardInfo]:
        """All there are, in the order they came."""
        return [_info(network, known) for network in self._networks() for known in network.forwards]

    async def forward(self, text: str, network: str | None = None) -> model.ForwardInfo:
        """Have a port of this machine lead to a guest's, as `hostfwd=` has it, also to a guest that is not there yet.

        Port 0 is any that is free. Raises InputError, MissingError if there is no such network, and RefusedError.
        """
        wanted = forwards.read(text)
        found = self._network(network)
        return _info(found, await found.forward(wanted))

    async def unforward(self, text: str, network: str | None = None) -> None:
        """Take a forward back, named in full or up to the `-`. What is connected stays so. Raises MissingError."""
        names = forwards.names(text)
        for found in [self._network(network)] if network is not None else list(self._networks()):
            for known in found.forwards:
                if {str(known.forward), known.forward.here} & names:
                    await found.unforward(known)
                    return
        there_are = ", ".join(info.forward for info in self.forwards()) or "none"
        raise MissingError(f"there is no forward {text!r}; there are {there_are}")

    def serve(self, ip: str, port: int, handler: internet.Handler, network: str | None = None) -> None:
        """Have a function take what guests connect to at an address and port, wherever that is: a server that is made
        up. It is awaited with a stream for each connection, until it has a successor. Raises InputError, MissingError
        and RefusedError."""
        self._network(network).internet.serve(_address(ip), port, handler)

    def name(self, name: str, ips: Iterable[str], network: str | None = None) -> None:
        """Have a name stand for addresses, whatever others say. Raises as `serve` does."""
        self._network(network).internet.name(name, [_address(ip) for ip in ips])

    def _networks(self) -> Iterator[UserNetwork]:
        for name in self._attachments:
            endpoint = self._attachments[name].endpoint
            if isinstance(endpoint, UserNetwork):
                yield endpoint

    def _network(self, name: str | None) -> UserNetwork:
        """The one of that name, or the only one. Raises InputError and MissingError."""
        found = {network.name: network for network in self._networks()}
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if name in found:
            return found[name]
        there_are = ", ".join(found)
        if name is None and found:
            raise InputError(f"there are several user networks, {there_are}; name one of them")
        what = "no user network" if name is None else f"no user network {name!r}"
        raise MissingError(f"there is {what}; {f'there are {there_are}' if found else 'attach one like user://'}")


def _address(text: str) -> internet.Address:
    try:
        return ip_address(text)
    except ValueError:
        raise InputError(f"{text!r} is no IP address") from None


def _info(network: UserNetwork, known: Known) -> model.ForwardInfo:
    return model.ForwardInfo(
        network=network.name, forward=str(known.forward), ip=known.ip or None, problem=known.problem
    )


def _counted(network: UserNetwork, counts: counters.Counts | None) -> model.NatInfo:
    if counts is None:
        return model.NatInfo(network=network.name, age_s=None, guests=[], others=_traffic(Traffic()), served={})
    now_s = time.time()
    names = {lease.mac: lease.name for lease in network.leases if lease.until_s > now_s}
    guests = [
        model.NatGuest(
            mac=guest.mac,
            ip=guest.ip,
            name=names.get(guest.mac, ""),
            connections=guest.connections,
            **msgspec.structs.asdict(_traffic(guest.traffic)),
        )
        for guest in counts.guests
    ]
    return model.NatInfo(
        network=network.name,
        age_s=round(counts.age_s, 3),
        guests=guests,
        others=_traffic(counts.others),
        served=counts.served,
    )


def _traffic(counted: Traffic) -> model.NatTraffic:
    return model.NatTraffic(
        out_frames=counted.out_frames,
        out_bytes=counted.out_bytes,
        in_frames=counted.in_frames,
        in_bytes=counted.in_bytes,
        drops=counters.known(counted.drops),
    )
