"""The frame by which a station says where it is, as scapy reads it."""

from scapy.layers.l2 import ARP, Dot1Q, Ether

from vswitch.protocols.rarp import announcement

STATION = bytes.fromhex("525400000001")
TEXT = "52:54:00:00:00:01"


def test_a_station_asks_for_its_own_address() -> None:
    read = Ether(announcement(STATION))
    assert (read.dst, read.src, read.type) == ("ff:ff:ff:ff:ff:ff", TEXT, 0x8035)
    asked = ARP(bytes(read.payload))
    assert (asked.op, asked.hwsrc, asked.hwdst, asked.psrc, asked.pdst) == (3, TEXT, TEXT, "0.0.0.0", "0.0.0.0")
    assert len(announcement(STATION)) == 60


def test_it_may_be_tagged() -> None:
    read = Ether(announcement(STATION, bytes.fromhex("8100000a")))
    assert (read[Dot1Q].vlan, read[Dot1Q].type) == (10, 0x8035)
