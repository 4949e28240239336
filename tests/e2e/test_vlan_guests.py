"""Booted Linux guests with VLAN interfaces, on trunk, native, access and customer ports: who reaches whom."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.e2e.guest import Guest, Nic, boot, guest_image
from tests.peers import check_balance, until
from vswitch import VSwitch
from vswitch.endpoints.guests import qemu

QEMU_VERSION = (7, 2)
# A guest that looks for an address in vain sends one frame then, and not up to three.
ASKING_ONCE = "for interface in default eth0; do echo 1 >/proc/sys/net/ipv4/neigh/$interface/mcast_solicit; done"


@pytest.fixture(autouse=True, scope="module")
def machine_that_runs_guests() -> None:
    guest_image()


@asynccontextmanager
async def lan(directory: Path, **policies: str) -> AsyncIterator[tuple[VSwitch, list[Guest]]]:
    """A switch, and a booted guest on a port of each policy: both have the policy's name."""
    async with VSwitch() as switch:
        guests = []
        for name, policy in policies.items():
            port = await switch.attach(f"unix://{directory}/{name}?single&name={name}&{policy}")
            netdev = (qemu.stream_netdev(port.config, QEMU_VERSION) or "").replace("id=net0,", "")
            guests.append(Guest(name, Nic(netdev)))
        async with boot(*guests):
            yield switch, guests
            check_balance(switch)


async def do(guest: Guest, *commands: str) -> None:
    done = await guest.run(f"set -ex; {'; '.join(commands)}")
    assert done.ok, f"{guest.name}: {done.stdout}"


def vlan(vid: int, *addresses: str, under: str = "eth0", protocol: str = "802.1q") -> str:
    """What makes an interface for the frames of a VLAN, such as eth0.10, with IPv4 addresses as `ip` takes them."""
    name = f"{under}.{vid}"
    made = f"ip link add link {under} name {name} type vlan protocol {protocol} id {vid}; ip link set {name} up"
    return "; ".join([made, *(f"ip address add {address} dev {name}" for address in addresses)])


async def reach(guest: Guest, *addresses: str) -> None:
    await do(guest, *(f"ping -c 1 -W 9 {address}" for address in addresses))


async def miss(guest: Guest, address: str) -> None:
    done = await guest.run(f"ping -c 1 -W 1 {address}")
    assert "100% packet loss" in done.stdout, f"{guest.name}: {done.stdout}"


def drops(switch: VSwitch) -> dict[str, dict[str, int]]:
    return {port.name: port.drops for port in switch.ports()}


async def test_guests_reach_each_other_within_their_vlans_and_no_further(directory: Path) -> None:
    policies = {"trunk": "trunk=10,20", "native": "trunk=10&native=20", "ten": "vlan=10"}
    async with lan(directory, **policies, twenty="vlan=20&allow_ip=10.0.20.3") as (switch, guests):
        trunk, native, ten, twenty = guests
        await do(trunk, vlan(10, "10.0.10.1/24"), vlan(20, "10.0.20.1/24"))
        await do(native, vlan(10, "10.0.10.2/24"), "ip address add 10.0.20.2/24 dev eth0")
        await do(ten, "ip address add 10.0.10.3/24 dev eth0")
        await do(twenty, "ip address add 10.0.20.3/24 dev eth0")
        async with trio.open_nursery() as pings:
            pings.start_soon(reach, trunk, "10.0.10.2", "10.0.10.3", "10.0.20.2", "10.0.20.3")
            pings.start_soon(reach, native, "10.0.10.1", "10.0.10.3", "10.0.20.1", "10.0.20.3")
            pings.start_soon(reach, ten, "10.0.10.1", "10.0.10.2")
            pings.start_soon(reach, twenty, "10.0.20.1", "10.0.20.2")
        heard = {(entry.mac, entry.vlan, entry.port) for entry in await switch.macs()}
        members = [(trunk, 10), (trunk, 20), (native, 10), (native, 20), (ten, 10), (twenty, 20)]
        assert heard == {(guest.nics[0].mac, vid, guest.name) for guest, vid in members}
        assert drops(switch) == {guest.name: {} for guest in guests}

        # A guest in VLAN 10 finds nobody of VLAN 20, whatever its address; one in VLAN 20 tags frames in vain. Nor is a
        # trunk for what has no tag, or one of another VLAN. All that does not get in is counted.
        await do(ten, "ip address add 10.0.20.9/24 dev eth0")
        await do(twenty, ASKING_ONCE, vlan(10, "10.0.10.9/24"))
        await do(trunk, ASKING_ONCE, vlan(30, "10.0.30.1/24"), "ip address add 10.0.40.1/24 dev eth0")
        await do(native, vlan(30, "10.0.30.2/24"), "ip address add 10.0.40.2/24 dev eth0")
        async with trio.open_nursery() as pings:
            pings.start_soon(miss, ten, "10.0.20.3")
            pings.start_soon(miss, twenty, "10.0.10.3")
            pings.start_soon(miss, trunk, "10.0.30.2")
            pings.start_soon(miss, trunk, "10.0.40.2")
            # Meanwhile one tells VLAN 20 that the trunk guest's address is its own; nobody is to believe it.
            pings.start_soon(do, twenty, "ip address add 10.0.20.1/24 dev eth0", "arping -U -c 1 -w 1 10.0.20.1")
        assert trunk.nics[0].mac in (await native.run("ip neigh show 10.0.20.1")).stdout
        counted = {"trunk": {"vlan": 2}, "native": {}, "ten": {}, "twenty": {"vlan": 1, "spoofed_ip": 1}}
        await until(lambda: sum(sum(each.values()) for each in drops(switch).values()) >= 4)
        assert drops(switch) == counted


async def test_customers_with_the_same_vlan_and_network_do_not_see_each_other(directory: Path) -> None:
    """Each is in a service VLAN of its own; the provider's guest has both on a trunk, with two tags (802.1ad)."""
    policies = {"provider": "trunk=100,200", "one": "qinq=100", "two": "qinq=200"}
    async with lan(directory, **policies) as (switch, guests):
        provider, one, two = guests
        for vid, customer in ((100, "10.0.0.1"), (200, "10.0.0.2")):
            inner = vlan(5, f"10.0.0.9 peer {customer}", under=f"eth0.{vid}")
            await do(provider, vlan(vid, protocol="802.1ad"), inner)
        await do(one, vlan(5, "10.0.0.1/24"))
        await do(two, vlan(5, "10.0.0.2/24"))
        await reach(provider, "10.0.0.1", "10.0.0.2")
        async with trio.open_nursery() as pings:
            pings.start_soon(reach, one, "10.0.0.9")
            pings.start_soon(reach, two, "10.0.0.9")
            pings.start_soon(miss, one, "10.0.0.2")
            pings.start_soon(miss, two, "10.0.0.1")
        heard = {(entry.mac, entry.vlan, entry.port) for entry in await switch.macs()}
        members = [(provider, 100), (provider, 200), (one, 100), (two, 200)]
        assert heard == {(guest.nics[0].mac, vid, guest.name) for guest, vid in members}
        assert drops(switch) == {guest.name: {} for guest in guests}
