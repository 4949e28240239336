"""Guests that forwards lead to stay behind the port where they got their lease, as long as that is up.

Else any other guest would have a forward's connections by sending a frame with that guest's MAC address, as a switch
learns. Whoever a forward leads to without a lease, by an address it has given itself, is not held.
"""

from collections.abc import Callable, Iterable

import trio

from vswitch.dataplane.mac_table import mac_key
from vswitch.endpoints.user.leases import Lease
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.ports.ports import Ports

LOOK_S = 1.0  # how often to see who has come back


class Holding:
    """`wanted` are the MAC addresses of those that forwards lead to; `lease_of` and `vlan` are of this moment."""

    def __init__(
        self,
        ports: Ports,
        *,
        wanted: Callable[[], Iterable[str]],
        lease_of: Callable[[str], Lease | None],
        vlan: Callable[[], int],
    ) -> None:
        self._ports = ports
        self._wanted, self._lease_of, self._vlan = wanted, lease_of, vlan
        self._homes: dict[str, SwitchPort] = {}  # where those with leases got them, by MAC address
        self._held: set[int] = set()  # keys of the MAC table

    def leased(self, lease: Lease, port: SwitchPort) -> None:
        self._homes[lease.mac] = port
        self.look()

    async def keep(self) -> None:
        try:
            while True:
                self.look()
                await trio.sleep(LOOK_S)
        finally:
            self._release(self._held)

    def look(self) -> None:
        """Hold whom forwards lead to now, and nobody else."""
        table, held = self._ports.table, set[int]()
        for mac in set(self._wanted()):
            key = mac_key(self._vlan(), int(mac.replace(":", ""), 16))
            home = self._home(mac, key)
            if home is not None and home.up:
                table.hold(key, home.port.index, now_ms())
                held.add(key)
        self._release(self._held - held)
        self._held = held

    def _home(self, mac: str, key: int) -> SwitchPort | None:
        """A lease from before is of a port that is called the same: it is of this one if the guest is heard there."""
        lease = self._lease_of(mac)
        if lease is None:
            return None
        port = self._ports.named(lease.port)
        if port is None or self._homes.get(mac) is port:
            return port
        if self._ports.table.lookup(key, now_ms()) != port.port.index:
            return None
        self._homes[mac] = port
        return port

    def _release(self, keys: set[int]) -> None:
        for key in keys:
            self._ports.table.release(key)
