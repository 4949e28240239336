"""The internet that a test makes up, as hosts and a guest find it."""

import json
import signal
from typing import Any

import pytest
import trio
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, TCP, UDP

from tests.e2e.guest import guest_image
from tests.endpoints.user_guest import restarted
from tests.needs import require
from vswitch import InputError, RefusedError
from vswitch.services.user_network.slirp import Library
from vswitch.testing import Disk, Lan, Request, Response, ScapyHost, SyncLan

NAME_SERVER = "10.0.2.3"
NXDOMAIN = 3


@pytest.fixture(autouse=True)
def library() -> None:
    try:
        Library()
    except RefusedError as error:
        require(False, str(error))


async def looked_up(host: ScapyHost, name: str, server: str = NAME_SERVER) -> list[str] | None:
    """What a name stands for; None if it does not exist."""
    query = UDP(sport=5353, dport=53) / DNS(qd=DNSQR(qname=name))
    reply = await host.sr1(IP(dst=server) / query, timeout=10)
    assert reply is not None
    return None if reply[DNS].rcode == NXDOMAIN else [record.rdata for record in reply[DNS].an]


async def host_on(lan: Lan, **parameters: Any) -> ScapyHost:
    await lan.user_network(**parameters)
    return await lan.host("h", ip="10.0.2.100/24", gateway="10.0.2.2")


async def test_names_are_those_that_were_made_up_and_no_others(lan: Lan) -> None:
    before = lan.internet.name("Example.COM.")
    host = await host_on(lan)
    assert await looked_up(host, "example.com") == [before]
    assert await looked_up(host, "example.org") is None
    assert lan.internet.name("example.org", "203.0.113.5") == "203.0.113.5"
    assert await looked_up(host, "example.org") == ["203.0.113.5"]
    assert lan.internet.name("example.com") == before
    with pytest.raises(InputError, match="'nonsense' is no IP address"):
        lan.internet.name("example.net", "nonsense")


async def test_a_guest_is_answered_as_the_test_wants(lan: Lan) -> None:
    guest_image()
    await lan.user_network()

    async def answer(request: Request) -> Response:
        said = json.dumps([request.method, request.path, request.headers["host"], request.body.decode()])
        return Response(201, said, {"X-Way": "made up"})

    shop = lan.internet.http("shop.example.com", answer, port=8080)
    update = lan.internet.http("update.example.com", 503)
    guest = await lan.guest("web", ip="dhcp")
    assert guest.ip == "10.0.2.15"
    failed = await guest.run("wget -q -O- http://update.example.com/list")
    assert "HTTP/1.1 503" in failed.stderr
    lan.internet.http("update.example.com", lambda request: f"{request.path} is here\n")
    got = (await guest.run("wget -q -O- http://update.example.com/list?all")).check()
    assert got.stdout == "/list?all is here\n"
    assert [request.path for request in await update.asked(2)] == ["/list", "/list?all"]
    sent = await guest.run("wget -q -O- --post-data=one http://shop.example.com:8080/%41")
    assert json.loads(sent.check().stdout) == ["POST", "/%41", "shop.example.com:8080", "one"]
    assert shop.requests[0].body == b"one"
    assert "bad address" in (await guest.run("wget -q -O- http://nowhere.example.com/")).stderr
    assert "refused" in (await guest.run("wget -q -O- http://update.example.com:81/")).stderr


async def test_a_function_has_the_connections_to_a_port(lan: Lan) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail\r\n")

    ip = lan.internet.tcp("mail.example.com", 25, greet)
    host = await host_on(lan)
    synack = await host.sr1(IP(dst=ip) / TCP(sport=1000, dport=25, flags="S", seq=1, window=9000), timeout=10)
    assert synack is not None
    assert synack[TCP].flags == "SA"
    await host.send(IP(dst=ip) / TCP(sport=1000, dport=25, flags="A", seq=2, ack=synack[TCP].seq + 1, window=9000))
    data = await host.recv(lambda packet: TCP in packet and bytes(packet[TCP].payload).startswith(b"220"), timeout=10)
    assert data is not None
    assert data[IP].src == ip


async def test_what_is_made_up_outlives_the_networks_process(lan: Lan) -> None:
    host = await host_on(lan, name="net")
    ip = lan.internet.name("example.com")
    assert await looked_up(host, "example.com") == [ip]
    async with restarted(lan.switch, signal.SIGKILL):
        pass
    assert await looked_up(host, "example.com") == [ip]


async def test_several_networks_have_the_same(lan: Lan) -> None:
    await lan.user_network()
    ip = lan.internet.name("example.com")
    again = await lan.user_network("10.9.0.0/24", name="other", vlan=2)
    other = await lan.host("o", ip="10.9.0.100/24", gateway="10.9.0.2", vlan=2)
    assert again == "other"
    assert await looked_up(other, "example.com", "10.9.0.3") == [ip]


async def test_who_cannot_ask_by_dhcp_is_told(lan: Lan) -> None:
    with pytest.raises(InputError, match="only a guest asks for an address by DHCP"):
        await lan.host("h", ip="dhcp")
    with pytest.raises(InputError, match="leave that to them"):
        await lan.guest("x", ip="dhcp", image=Disk("x.qcow2"))


def test_without_async_too(sync_lan: SyncLan) -> None:
    guest_image()
    sync_lan.user_network()
    site = sync_lan.internet.http("example.com", lambda request: Response(200, f"you asked {request.path}"))
    guest = sync_lan.guest("a", ip="dhcp")
    assert guest.run("wget -q -O- http://example.com/x").check().stdout == "you asked /x"
    assert [request.method for request in site.requests] == ["GET"]
