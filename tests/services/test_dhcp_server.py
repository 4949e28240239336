"""What the DHCP server answers, to clients as scapy writes them."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from vswitch.protocols import dhcp
from vswitch.services.user_network.dhcp_server import Answer, DhcpServer
from vswitch.services.user_network.leases import Leases
from vswitch.services.user_network.names import Names, label
from vswitch.services.user_network.neighbors import Neighbors
from vswitch.services.user_network.settings import Settings

MAC = bytes.fromhex("525400123456")
ALL, OURS, NEXT = IPv4Address("255.255.255.255"), IPv4Address("10.0.2.15"), IPv4Address("10.0.2.16")
SETTINGS = Settings(
    network=IPv4Network("10.0.2.0/24"),
    host=IPv4Address("10.0.2.2"),
    dns=IPv4Address("10.0.2.3"),
    dhcpstart=OURS,
    mac=bytes.fromhex("52550a000202"),
    mtu=9000,
    lease_s=1000.0,
)


class Server:
    def __init__(self, **settings: Any) -> None:
        self.settings = msgspec.structs.replace(SETTINGS, **settings)
        self.leases = Leases([OURS, NEXT], self.settings.lease_s)
        self.names = Names(self.settings, self.leases, Neighbors(self.settings.network6))
        self._server = DhcpServer(self.settings, self.leases, self.names)

    def hear(self, kind: str, *options: Any, port: str = "lab.1", now_s: float = 0.0, **fields: Any) -> Answer | None:
        fields = {"chaddr": MAC} | fields
        said = DHCP(options=[("message-type", kind), *options, "end"])
        message = dhcp.read(bytes(BOOTP(xid=1, **fields) / said))
        assert message is not None
        name = label(message.options.get(dhcp.HOST_NAME, b"")) or self.settings.hostname
        return self._server.answer(message, port, name, now_s)

    def take(self, ip: IPv4Address = OURS, *options: Any, **more: Any) -> Answer | None:
        return self.hear("request", ("requested_addr", str(ip)), ("server_id", "10.0.2.2"), *options, **more)


def options(answer: Answer | None) -> dict[str, Any]:
    assert answer is not None
    return {option[0]: option[1] for option in BOOTP(answer.payload)[DHCP].options if isinstance(option, tuple)}


def test_a_client_is_offered_an_address_and_takes_it() -> None:
    server = Server()
    offer = server.hear("discover")
    assert offer is not None
    assert (offer.to, offer.lease) == (OURS, None)
    told = options(offer)
    assert told["message-type"] == dhcp.OFFER
    assert (told["router"], told["name_server"], told["subnet_mask"]) == ("10.0.2.2", "10.0.2.3", "255.255.255.0")
    assert (told["interface-mtu"], told["domain"], told["lease_time"]) == (9000, b"lan", 1000)
    assert (told["renewal_time"], told["rebinding_time"]) == (500, 875)
    ack = server.take(OURS, ("hostname", b"Web"))
    assert options(ack)["message-type"] == dhcp.ACK
    assert ack is not None
    assert ack.lease is not None
    assert (ack.lease.ip, ack.lease.name, ack.lease.port, ack.lease.until_s) == (OURS, "web", "lab.1", 1000.0)
    assert server.names.addresses("web", 999.0) == [OURS]


def test_who_boots_from_the_network_is_told_what() -> None:
    server = Server(bootfile="pxelinux.0", tftp_server_name="boot.lan", dnssearch=("a.example", "b.example"))
    offer = server.hear("discover")
    assert offer is not None
    assert BOOTP(offer.payload).file.rstrip(b"\0") == b"pxelinux.0"
    assert BOOTP(offer.payload).siaddr == "10.0.2.2"
    told = options(offer)
    assert told["tftp_server_name"] == b"boot.lan"
    (search,) = [value for name, value in told.items() if name in (119, "domain-search")]
    assert bytes(search) == b"\1a\7example\0\1b\7example\0"
    assert "boot-file-name" not in told
    long = "x" * (dhcp.FILE_MAX + 1)
    offer = Server(bootfile=long).hear("discover")
    assert options(offer)["boot-file-name"] == long.encode()


def test_who_says_no_name_may_be_given_one() -> None:
    server = Server(hostname="guest")
    server.take()
    assert server.names.addresses("guest", 1.0) == [OURS]
    server.hear("request", ("requested_addr", str(NEXT)), ("server_id", "10.0.2.2"), chaddr=b"\x52\x54\0\0\0\1")
    assert server.names.addresses("guest", 1.0) == [OURS], "one name is one guest's"


def test_one_that_wants_an_answer_by_broadcast_gets_it_so() -> None:
    answer = Server().hear("discover", flags=0x8000)
    assert answer is not None
    assert answer.to == ALL


def test_a_renewal_goes_to_the_address_and_lengthens_the_lease() -> None:
    server = Server()
    server.take()
    again = server.hear("request", ciaddr=str(OURS), now_s=500.0)
    assert again is not None
    assert again.to == OURS
    assert again.lease is not None
    assert again.lease.until_s == 1500.0
    assert BOOTP(again.payload).ciaddr == str(OURS)


def test_what_is_not_this_clients_is_refused() -> None:
    server = Server()
    server.take(chaddr=bytes.fromhex("525400000009"), port="lab.2")
    refused = server.take()
    assert options(refused)["message-type"] == dhcp.NAK
    assert refused is not None
    assert refused.to == ALL
    assert options(server.hear("request", ("requested_addr", "192.168.1.5")))["message-type"] == dhcp.NAK


def test_who_has_chosen_another_server_gets_no_answer() -> None:
    assert Server().hear("request", ("requested_addr", str(OURS)), ("server_id", "10.0.2.77")) is None


def test_a_released_address_is_nobody_elses_before_its_lease_is_over() -> None:
    """Others may say so in its name."""
    server = Server()
    server.take()
    assert server.hear("release", ciaddr=str(OURS)) is None
    other: Any = {"chaddr": bytes.fromhex("525400000009"), "port": "lab.2"}
    assert options(server.take(**other))["message-type"] == dhcp.NAK
    assert options(server.take(now_s=1.0))["message-type"] == dhcp.ACK


def test_who_may_be_another_servers_is_not_refused() -> None:
    server = Server()
    server.take(chaddr=bytes.fromhex("525400000009"), port="lab.2")
    assert server.hear("request", ("requested_addr", str(OURS))) is None
    assert server.hear("request", ("requested_addr", "10.0.2.200")) is None
    assert options(server.hear("request", ("requested_addr", str(NEXT))))["message-type"] == dhcp.ACK, "it is free"


def test_who_has_an_address_is_told_the_rest() -> None:
    answer = Server().hear("inform", ciaddr="10.0.2.200")
    told = options(answer)
    assert "lease_time" not in told
    assert told["name_server"] == "10.0.2.3"
    assert answer is not None
    assert (answer.to, BOOTP(answer.payload).yiaddr) == (IPv4Address("10.0.2.200"), "0.0.0.0")


def test_a_restricted_network_leads_nowhere() -> None:
    assert "router" not in options(Server(restrict=True).hear("discover"))
    assert "router" in options(Server(internet=False).hear("discover"))


@pytest.mark.parametrize(
    ("said", "port", "name"),
    [
        (b"web", "lab.1", "web"),
        (b"WEB.example.org\0", "lab.1", "web"),
        (b"", "db", "db"),
        (b"\xff\x1b[31m", "db", "db"),
        (b"-no-", "lab.1", "lab-1"),
        (b"host", "lab.1", ""),
        (b"wpad", "lab.1", ""),
        (b"lab-2", "lab.1", ""),
        (b"a" * 64, "a_b", "a-b"),
    ],
)
def test_a_station_is_called_what_it_says_or_like_its_port(said: bytes, port: str, name: str) -> None:
    server = Server()
    server.take(NEXT, chaddr=bytes.fromhex("525400000009"), port="lab.2")
    answer = server.take(OURS, ("hostname", said), port=port)
    assert answer is not None
    assert answer.lease is not None
    assert answer.lease.name == name


def test_a_name_is_not_taken_away() -> None:
    server = Server()
    server.take(OURS, ("hostname", b"web"))
    other = server.take(NEXT, ("hostname", b"web"), chaddr=bytes.fromhex("525400000009"), port="lab.2")
    assert other is not None
    assert other.lease is not None
    assert other.lease.name == ""
    assert server.names.addresses("web", 1.0) == [OURS]
