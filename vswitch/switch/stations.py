"""The stations of a switch: those in the MAC table, and guests that are going to be plugged in."""

import msgspec
import trio

from vswitch.control import answers, model
from vswitch.dataplane.frame import VLAN_MAX, VLAN_ZERO
from vswitch.dataplane.mac_table import NO_PORT, mac_key
from vswitch.endpoints.guests.qemu import guest_mac, next_mac
from vswitch.ports.policy import mac_text, table_vlan, written
from vswitch.ports.port import now_ms
from vswitch.ports.ports import Ports
from vswitch.switch.attachments import Attachment, Attachments
from vswitch.switch.policies import Policies

HANDED_OUT_MAX = 65536  # addresses that are remembered


class Stations:
    """Who has which MAC address, on the switch called `name`."""

    def __init__(self, name: str, ports: Ports, attachments: Attachments, policies: Policies) -> None:
        self._name = name
        self._ports = ports
        self._attachments = attachments
        self._policies = policies
        self._guests: dict[str, int] = {}  # by endpoint, how many were told an address
        self._handed_out: dict[str, None] = {}  # addresses, the last one last

    async def macs(self) -> list[model.MacInfo]:
        """The MAC table, by VLAN and address."""
        return await answers.macs(self._ports)

    def pin(self, station: str, port: str) -> None:
        """Have a station be behind a port, or an endpoint with one, whatever is heard: `MAC`, or `MAC@VLAN`.

        It is one more of the policy's `static`. Raises InputError if that cannot be.
        """
        pinned = dict(written(self._policies.of(port))).get("static")
        self._policies.amend(port, {"static": station if pinned is None else f"{pinned},{station}"})

    def forget(self, mac: int, vlan: int | None = None) -> int:
        """Drop what is known of a station, learned or pinned, in one VLAN or in all; answers how many entries."""
        count = self._unpin(mac, vlan)
        numbers = [*range(1, VLAN_MAX + 1), VLAN_ZERO] if vlan is None else [table_vlan(vlan)]
        table, now = self._ports.table, now_ms()
        for key in [mac_key(number, mac) for number in numbers]:
            if table.lookup(key, now) != NO_PORT:
                table.forget(key)
                count += 1
        return count

    async def flush(self, port: str | None = None, vlan: int | None = None) -> int:
        """Drop what was learned, at all ports or at those of a name, in one VLAN or in all; answers how many entries.

        Raises InputError if there is none of that name.
        """
        if port is not None:
            self._policies.check_known([port])
        indices = {known.port.index for known in self._ports if port is None or known.is_one_of((port,))}
        number = None if vlan is None else table_vlan(vlan)
        table, count = self._ports.table, 0
        for start in range(0, table.slots(), answers.PORTION_SLOTS):
            while keys := [
                mac_key(where, mac)
                for where, mac, index, age_ms in table.entries(now_ms(), start, start + answers.PORTION_SLOTS)
                if age_ms >= 0 and index in indices and number in (None, where)
            ]:  # again: entries behind those that are dropped move up
                for key in keys:
                    table.forget(key)
                count += len(keys)
            await trio.lowlevel.checkpoint()
        return count

    def _unpin(self, mac: int, vlan: int | None) -> int:
        policies = {port.name: port.policy for port in self._ports}
        policies |= {name: config.policy for name, config in self._attachments.configs().items()}
        count = 0
        for name, policy in policies.items():
            left = tuple(
                station
                for station in policy.static
                if station.mac != mac or vlan not in (None, policy.vlan_of(station))
            )
            if left != policy.static:
                count += len(policy.static) - len(left)
                self._policies.set(name, msgspec.structs.replace(policy, static=left))
        return count

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
        self._guests = {name: number for name, number in self._guests.items() if name in self._attachments}
        while True:
            number = self._guests[endpoint] = self._guests.get(endpoint, 0) + 1
            mac = guest_mac(self._name, endpoint, str(number))
            if mac not in taken and mac not in self._handed_out:
                return mac
