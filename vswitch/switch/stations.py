"""The stations of a switch: those in the MAC table, and guests that are going to be plugged in."""

from vswitch.control import answers, model
from vswitch.endpoints.guests.qemu import guest_mac, next_mac
from vswitch.ports.policy import mac_text
from vswitch.ports.port import now_ms
from vswitch.ports.ports import Ports
from vswitch.switch.attachments import Attachment, Attachments

HANDED_OUT_MAX = 65536  # addresses that are remembered


class Stations:
    """Who has which MAC address, on the switch called `name`."""

    def __init__(self, name: str, ports: Ports, attachments: Attachments) -> None:
        self._name = name
        self._ports = ports
        self._attachments = attachments
        self._guests: dict[str, int] = {}  # by endpoint, how many were told an address
        self._handed_out: dict[str, None] = {}  # addresses, the last one last

    async def macs(self) -> list[model.MacInfo]:
        """The MAC table, by VLAN and address."""
        return await answers.macs(self._ports, now_ms())

    async def next_guest(self, endpoint: str) -> str:
        """A MAC address for one more guest of an endpoint: not in the MAC table, and never handed out before.

        Where the policy names the stations, it is one of them: the next in order, or when all have been handed out, the
        one that was longest ago. Raises InputError if there is no such endpoint.
        """
        known = self._attachments[endpoint]
        stations = await self.macs()
        taken = {station.mac for station in stations if not (station.static and station.port == endpoint)}
        mac = self._named_mac(known, taken) or self._new_mac(endpoint, taken)
        self._handed_out.pop(mac, None)
        self._handed_out[mac] = None
        if len(self._handed_out) > HANDED_OUT_MAX:
            del self._handed_out[next(iter(self._handed_out))]
        return mac

    def _named_mac(self, endpoint: Attachment, taken: set[str]) -> str | None:
        """The station of an endpoint's policy whose turn it is.

        None if it names none, or if others may come as well and all of its have been handed out.
        """
        policy = endpoint.config.policy
        named = [mac_text(mac) for mac in policy.stations]
        if policy.senders is None and endpoint.config.scheme == "mcast":  # whose many guests share a port
            named = [mac for mac in named if mac not in taken and mac not in self._handed_out]
        free = [mac for mac in named if mac not in taken]
        return next_mac(free or named, self._handed_out) if named else None

    def _new_mac(self, endpoint: str, taken: set[str]) -> str:
        while True:
            number = self._guests[endpoint] = self._guests.get(endpoint, 0) + 1
            mac = guest_mac(self._name, endpoint, str(number))
            if mac not in taken and mac not in self._handed_out:
                return mac
