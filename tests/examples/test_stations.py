"""How to run one test against several kinds of stations: a host made of scapy, a namespace, a guest."""

import pytest

from vswitch.testing import Guest, Lan, Namespace, ScapyHost


@pytest.mark.parametrize("station", ["host", "namespace", "guest"])
async def test_a_station_answers(lan: Lan, station: str) -> None:
    peer = await lan.host("peer")
    tested: ScapyHost | Namespace | Guest = await getattr(lan, station)("tested", vlan=10)
    assert not await peer.ping(tested.ip, timeout=0.2)  # it is in another VLAN
    await lan.remove(peer)
    peer = await lan.host("peer", vlan=10)
    assert await peer.ping(tested.ip)
    await lan.expect_flow(tested, peer, protocol="ICMP")
