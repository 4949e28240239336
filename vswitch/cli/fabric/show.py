"""What FRR knows of a fabric: hosts that this one speaks with, LANs, and which host each station is on."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from vswitch.cli import table
from vswitch.cli.fabric import frr
from vswitch.cli.looking.show import span
from vswitch.cli.output import say
from vswitch.cli.table import Column
from vswitch.errors import printable

PEER_COLUMNS = (
    Column("PEER"),
    Column("NAME", 1),
    Column("STATE"),
    Column("FOR", 2, right=True),
    Column("ROUTES", 3, right=True),
)
VNI_COLUMNS = (Column("VNI"), Column("DEVICE", 1), Column("MACS", right=True), Column("ALSO ON", 2, wraps=True))
MAC_COLUMNS = (Column("MAC"), Column("VNI"), Column("HOST"), Column("PORT", 1), Column("MOVED", 2, right=True))


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    name: str | None
    state: str
    up_s: int | None
    routes: int


class VniInfo(msgspec.Struct, frozen=True, kw_only=True):
    vni: int
    device: str
    macs: int
    hosts: tuple[str, ...]


class StationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`host` is null and `port` an interface of this machine if the station is here."""

    mac: str
    vni: int
    host: str | None
    port: str | None
    moves: int
    duplicate: bool


class FabricInfo(msgspec.Struct, frozen=True, kw_only=True):
    peers: tuple[PeerInfo, ...]
    vnis: tuple[VniInfo, ...]
    macs: tuple[StationInfo, ...]


def gather(summary: frr.Summary, vnis: Mapping[str, frr.Vni], macs: Mapping[str, frr.Macs]) -> FabricInfo:
    """The stations are sorted by host, those of this one first."""
    stations = (station for vni, found in macs.items() if vni.isdecimal() for station in _stations(int(vni), found))
    return FabricInfo(
        peers=tuple(_peer(address, peer) for address, peer in summary.peers.items()),
        vnis=tuple(
            VniInfo(vni=vni.vni, device=vni.vxlan_if, macs=vni.num_macs, hosts=tuple(sorted(vni.remote_vteps)))
            for vni in vnis.values()
        ),
        macs=tuple(sorted(stations, key=lambda station: (station.vni, station.host or "", station.mac))),
    )


def _peer(address: str, peer: frr.Peer) -> PeerInfo:
    up_s = peer.peer_uptime_msec // 1000 if peer.state == frr.ESTABLISHED else None
    return PeerInfo(address=address, name=peer.hostname, state=peer.state, up_s=up_s, routes=peer.pfx_rcd)


def _stations(vni: int, found: frr.Macs) -> Iterator[StationInfo]:
    for mac, station in found.macs.items():
        moves = max(station.local_sequence, station.remote_sequence)
        yield StationInfo(
            mac=mac,
            vni=vni,
            host=station.remote_vtep,
            port=station.intf,
            moves=moves,
            duplicate=station.is_duplicate,
        )


def show(found: FabricInfo, wide: bool) -> None:
    names = {peer.address: peer.name for peer in found.peers if peer.name}
    peers = [
        (peer.address, peer.name or "-", peer.state, "-" if peer.up_s is None else span(peer.up_s), f"{peer.routes:,}")
        for peer in found.peers
    ]
    vnis = [(str(vni.vni), vni.device, f"{vni.macs:,}", ", ".join(vni.hosts) or "-") for vni in found.vnis]
    macs = [
        (
            station.mac,
            str(station.vni),
            "here" if station.host is None else names.get(station.host, station.host) or "",
            station.port or "-",
            f"{station.moves}{', duplicate' if station.duplicate else ''}",
        )
        for station in found.macs
    ]
    _show(PEER_COLUMNS, peers, wide)
    for columns, rows in ((VNI_COLUMNS, vnis), (MAC_COLUMNS, macs)):
        say("")
        _show(columns, rows, wide)


def _show(columns: tuple[Column, ...], rows: Iterable[tuple[str, ...]], wide: bool) -> None:
    """Other hosts have said some of it."""
    table.show(columns, [tuple(map(printable, row)) for row in rows], wide)
