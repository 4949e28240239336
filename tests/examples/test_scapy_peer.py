"""A guest's network stack and web server against single packets: answers, refusals, and what makes no sense.

What one learns: `sr1` sends a packet and has its answer; addresses and checksums that are left out are filled in, and
whatever is set stays, however wrong it is; `recv` waits for a packet. No kernel is behind a scapy host, so none answers
behind its back: a connection is what the test makes of it.
"""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet, Raw

from vswitch.testing import Guest, Lan, ScapyHost

SERVER = "10.0.0.1"
WRONG: list[Packet] = [
    IP(dst=SERVER, chksum=1) / ICMP(),
    IP(dst=SERVER, ihl=15) / TCP(dport=80),
    IP(dst=SERVER, len=65535) / UDP(dport=80),
    IP(dst=SERVER) / TCP(dport=80, flags="FSRPAU", dataofs=15),
    IP(dst=SERVER, flags="MF", frag=8191) / b"the end of a packet that is longer than any",
    IP(dst=SERVER, src=SERVER) / TCP(sport=80, dport=80, flags="S"),  # "LAND": from itself to itself
]


@pytest.fixture
async def server(lan: Lan) -> Guest:
    guest = await lan.guest("server", ip=SERVER)
    await guest.put(b"hello", "/tmp/index.html")
    (await guest.run("httpd -p 80 -h /tmp")).check()
    return guest


async def get(peer: ScapyHost, port: int) -> bytes:
    """The beginning of a web page, by a connection of four packets, two of them the server's."""
    opening = TCP(sport=port, dport=80, flags="S", seq=1000)
    accepted = await peer.sr1(IP(dst=SERVER) / opening)
    assert accepted is not None
    assert accepted[TCP].flags == "SA"
    request = TCP(sport=port, dport=80, flags="PA", seq=1001, ack=accepted[TCP].seq + 1)
    await peer.send(IP(dst=SERVER) / request / b"GET / HTTP/1.0\r\n\r\n")
    page = await peer.recv(f"tcp dst port {port} and tcp[tcpflags] & tcp-push != 0")
    assert page is not None
    return bytes(page[Raw])


async def test_a_server_answers_refuses_and_survives(lan: Lan, server: Guest) -> None:
    peer = await lan.host("peer")
    assert (await get(peer, port=2000)).startswith(b"HTTP/1.1 200 OK")

    refused = await peer.sr1(IP(dst=SERVER) / TCP(dport=81, flags="S"))
    assert refused is not None
    assert refused[TCP].flags == "RA"
    unreachable = await peer.sr1(IP(dst=SERVER) / UDP(sport=2001, dport=81) / b"anybody?")
    assert unreachable is not None
    assert (unreachable[ICMP].type, unreachable[ICMP].code) == (3, 3)

    await peer.send(*WRONG)
    assert (await get(peer, port=2002)).startswith(b"HTTP/1.1 200 OK")
