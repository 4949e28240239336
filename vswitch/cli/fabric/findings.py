"""What is wrong with a host of a fabric, or right: a line each, with what to do."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from vswitch.cli.fabric import configuration, frr
from vswitch.cli.fabric.configuration import ENCAPSULATION
from vswitch.cli.fabric.links import Link

WayTo = Callable[[str], str | None]


class Finding(NamedTuple):
    """`advice` is what to do; empty if nothing is wrong."""

    what: str
    advice: str = ""


def vnis_of(links: Mapping[str, Link]) -> list[int]:
    """The VNIs of all VXLAN devices."""
    return [link.vxlan.id for link in links.values() if link.vxlan is not None]


def of_lan(vni: int, links: Mapping[str, Link]) -> Iterator[Finding]:
    """Of a VXLAN device, the bridge that it is in, and the TAP device there."""
    device = _device(vni, links)
    if device is None:
        yield Finding(f"VNI {vni} has no VXLAN device", "run what this prints: vswitch fabric commands")
        return
    name = device.ifname
    if device.vxlan is not None and device.vxlan.learning:
        yield Finding(f"{name} learns by itself where stations are", f"run: ip link set {name} type vxlan nolearning")
    bridge = links.get(device.master or "")
    if bridge is None or bridge.linkinfo.info_kind != "bridge":
        command = f"ip link set {name} master {configuration.bridge(vni)}"
        yield Finding(f"{name} is in no bridge", f"run: {command}")
        return
    if device.linkinfo.info_slave_data.learning:
        command = f"ip link set {name} type bridge_slave learning off"
        yield Finding(f"{bridge.ifname} learns behind {name}, beside what FRR says", f"run: {command}")
    taps = [link for link in links.values() if link.is_tap and link.master == bridge.ifname]
    if not taps:
        likely = next((link.ifname for link in links.values() if link.is_tap), configuration.tap(vni))
        yield Finding(f"{bridge.ifname} has no TAP device", f"run: ip link set {likely} master {bridge.ifname}")
    for tap in taps:
        if "NO-CARRIER" in tap.flags:
            yield Finding(f"no switch has {tap.ifname} open", f"run: vswitch serve tap://{tap.ifname}")
        if tap.mtu > device.mtu:
            what = f"{tap.ifname} takes frames of MTU {tap.mtu} in, of which {name} carries {device.mtu}"
            yield Finding(what, f"run: ip link set {tap.ifname} mtu {device.mtu}")
    for link in (bridge, device, *taps):
        if not link.is_up:
            yield Finding(f"{link.ifname} is down", f"run: ip link set {link.ifname} up")


def in_short(vni: int, links: Mapping[str, Link]) -> Finding:
    """Of a LAN of which nothing is wrong."""
    device = _device(vni, links)
    assert device is not None
    taps = ", ".join(link.ifname for link in links.values() if link.is_tap and link.master == device.master)
    return Finding(f"VNI {vni}: {device.ifname} and {taps} are in {device.master}; guests have an MTU of {device.mtu}")


def of_mtu(vni: int, links: Mapping[str, Link], remotes: Iterable[str], way_to: WayTo) -> Iterator[Finding]:
    """Whether what a VXLAN device carries fits the interfaces that lead to other hosts."""
    device = _device(vni, links)
    if device is None:
        return
    for way in {way_to(remote) for remote in remotes}:
        under = links.get(way or "")
        if under is not None and device.mtu + ENCAPSULATION > under.mtu:
            what = f"{device.ifname} has MTU {device.mtu}, of which {under.ifname} carries {under.mtu - ENCAPSULATION}"
            fits = under.mtu - ENCAPSULATION
            advice = f"run: ip link set {device.ifname} mtu {fits}, or give {under.ifname} {device.mtu + ENCAPSULATION}"
            yield Finding(what, advice)


def of_peers(summary: frr.Summary, wanted: Iterable[IPv4Address]) -> Iterator[Finding]:
    """Of the BGP sessions with other hosts. `wanted` are those that the description has."""
    if not summary.peers and not wanted:
        yield Finding("bgpd has no EVPN peers", "put in /etc/frr/frr.conf what this prints: vswitch fabric frr")
    for address in map(str, wanted):
        if address not in summary.peers:
            yield Finding(f"bgpd does not know the peer {address}", "print frr.conf again: vswitch fabric frr")
    for address, peer in summary.peers.items():
        who = address if peer.hostname is None else f"{address} ({peer.hostname})"
        if peer.state == frr.ESTABLISHED:
            yield Finding(f"{who} is Established; routes from it: {peer.pfx_rcd:,}")
        else:
            advice = "see that bgpd runs there, has this host as a peer, and that TCP port 179 is open"
            yield Finding(f"{who} is {peer.state}, not Established", advice)


def of_zebra(vni: int, known: Mapping[str, frr.Vni]) -> Iterator[Finding]:
    """Whether FRR knows of a VNI, and another host has it, too."""
    found = known.get(str(vni))
    if found is None:
        yield Finding(f"FRR does not know VNI {vni}", "see that frr.conf has advertise-all-vni, and the device is up")
    elif not found.remote_vteps:
        yield Finding(f"no other host has VNI {vni}", "see what vswitch fabric check says there")


def _device(vni: int, links: Mapping[str, Link]) -> Link | None:
    return next((link for link in links.values() if link.vxlan is not None and link.vxlan.id == vni), None)
