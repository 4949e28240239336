"""The lines to paste: right for each QEMU's version, and safe to paste into a shell."""

import re
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.endpoints.test_policy import PORT, QUERIES, policy
from vswitch.dataplane.drops import PASSED, TOO_LONG
from vswitch.endpoints.guests import qemu
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError
from vswitch.ports.policy import build_egress, build_ingress, query, read_mac, remarks

TCP = parse("tcp://127.0.0.1:1234")
UNIX = parse("unix:///run/lan.sock")


def plain(text: str) -> qemu.Netdev:
    """One that nothing has to go with."""
    return qemu.Netdev(text, qemu.ANY_VERSION)


@pytest.mark.parametrize(
    ("version", "reconnect"),
    [
        ((7, 2), ""),
        ((8, 0), ",reconnect=1"),
        ((8, 2), ",reconnect=1"),
        ((9, 1), ",reconnect=1"),
        ((9, 2), ",reconnect-ms=1000"),
        ((10, 0), ",reconnect-ms=1000"),
        ((11, 1), ",reconnect-ms=1000"),
    ],
)
def test_a_guest_of_a_listener_connects_again_as_its_qemu_knows_how(version: qemu.Version, reconnect: str) -> None:
    start = f"stream,id=net0,server=off{reconnect}"
    assert qemu.stream_netdev(TCP, version) == f"{start},addr.type=inet,addr.host=127.0.0.1,addr.port=1234"
    assert qemu.stream_netdev(UNIX, version) == f"{start},addr.type=unix,addr.path=/run/lan.sock"


@pytest.mark.parametrize("version", [(7, 2), (8, 2), (9, 2)])
def test_a_guest_that_is_connected_to_listens(version: qemu.Version) -> None:
    start = "stream,id=net0,server=on,addr.type="
    tcp, unix = parse("tcp://[::1]:7?connect"), parse("unix:///run/g.sock?connect")
    assert qemu.stream_netdev(tcp, version) == f"{start}inet,addr.host=::1,addr.port=7"
    assert qemu.stream_netdev(unix, version) == f"{start}unix,addr.path=/run/g.sock"


@pytest.mark.parametrize("version", [(2, 12), (6, 2), (7, 1)])
def test_an_old_qemu_has_no_stream_netdev(version: qemu.Version) -> None:
    assert qemu.stream_netdev(TCP, version) is None


def test_the_socket_netdev_knows_tcp_over_ipv4_only() -> None:
    assert qemu.socket_netdev(TCP) == "socket,id=net0,connect=127.0.0.1:1234"
    assert qemu.socket_netdev(parse("tcp://127.0.0.1:7?connect")) == "socket,id=net0,listen=127.0.0.1:7"
    assert qemu.socket_netdev(parse("tcp://[::1]:7")) is None
    assert qemu.socket_netdev(UNIX) is None


def test_nobody_knows_what_goes_with_an_inherited_descriptor() -> None:
    assert qemu.stream_netdev(parse("fd://3"), (9, 2)) is None
    assert qemu.socket_netdev(parse("fd://3")) is None


def test_a_relative_path_is_printed_as_an_absolute_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert (qemu.stream_netdev(parse("unix://lan.sock"), (7, 2)) or "").endswith("addr.path=/tmp/lan.sock")


def test_a_comma_in_a_path_is_doubled() -> None:
    assert (qemu.stream_netdev(parse("unix:///run/a,b"), (7, 2)) or "").endswith("addr.path=/run/a,,b")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30))
@example("it's")
@example('a "b" $c `d` \\e')
@example("*[ab]?.sock")
@example("~")
def test_a_shell_hands_the_line_to_qemu_as_it_was_meant(name: str) -> None:
    netdev = qemu.stream_netdev(EndpointConfig(scheme="unix", path=f"/run/{name}"), (7, 2))
    assert netdev is not None
    words = shlex.split(qemu.arguments(plain(netdev), "52:54:00:00:00:01"))
    assert words == ["-netdev", netdev, "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01"]


@pytest.mark.parametrize("special", "*?[]{}~!#<>|&;()'\"`$\\ ")
def test_a_character_that_means_something_to_a_shell_is_quoted(special: str) -> None:
    line = qemu.arguments(plain(f"x{special}y"), "52:54:00:00:00:01")
    assert f" x{special}y " not in line
    assert shlex.split(line)[1] == f"x{special}y"


def test_plain_lines_have_no_quotes() -> None:
    netdev = qemu.stream_netdev(TCP, (9, 2))
    assert netdev is not None
    assert qemu.arguments(plain(netdev), "52:54:00:00:00:01").split()[1] == netdev


ANY = qemu.unnamed_guest("52:54:00:c4:00:dd")
WEB = qemu.named_guest("web")


def lines(url: str, version: qemu.Version = (7, 2), guest: qemu.Guest = ANY) -> list[str]:
    """The netdevs for an endpoint, best first."""
    return [netdev.text for netdev in qemu.netdevs(parse(url), version, guest)]


def test_an_old_qemu_gets_what_it_knows_first() -> None:
    stream, plain = lines("tcp://127.0.0.1:1")
    assert stream.startswith("stream,")
    assert lines("tcp://127.0.0.1:1", (6, 2)) == [plain, stream]
    assert qemu.best_netdev(TCP, (9, 2), ANY).text.startswith("stream,id=net0,server=off,reconnect-ms=")
    assert qemu.best_netdev(TCP, (6, 2), ANY).text == "socket,id=net0,connect=127.0.0.1:1234"


@pytest.mark.parametrize("url", ["unix:///run/lan.sock", "tcp://[::1]:1", "unixgram:///run/lan.sock"])
def test_what_an_old_qemu_cannot_do_is_an_error_that_says_which_can(url: str) -> None:
    with pytest.raises(InputError, match=r"QEMU 6\.2 .* 7\.2 or newer"):
        qemu.best_netdev(parse(url), (6, 2), ANY)


def test_a_group_is_joined_on_the_switchs_interface() -> None:
    remote = "remote.type=inet,remote.host=230.0.0.1,remote.port=5"
    assert lines("mcast://230.0.0.1:5") == [
        f"dgram,id=net0,local.type=inet,local.host=127.0.0.1,local.port=5,{remote}",
        "socket,id=net0,mcast=230.0.0.1:5,localaddr=127.0.0.1",
    ]
    assert "local.host=10.0.0.9," in lines("mcast://230.0.0.1:5?iface=10.0.0.9")[0]
    assert lines("mcast://230.0.0.1:5?iface=lo") == lines("mcast://230.0.0.1:5")
    assert lines("mcast://230.0.0.1:5?iface=no-such") == [
        f"dgram,id=net0,{remote}",
        "socket,id=net0,mcast=230.0.0.1:5",
    ]


def test_a_udp_guests_ends_are_ours_mirrored() -> None:
    assert lines("udp://127.0.0.1:5?remote=10.0.0.1:7") == [
        "dgram,id=net0,local.type=inet,local.host=10.0.0.1,local.port=7"
        ",remote.type=inet,remote.host=127.0.0.1,remote.port=5",
        "socket,id=net0,udp=127.0.0.1:5,localaddr=10.0.0.1:7",
    ]


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", "127.0.0.1"), ("127.9.9.9", "127.0.0.1"), ("localhost", "127.0.0.1"), ("10.0.0.1", "0.0.0.0")],
)
def test_each_guest_of_a_udp_listener_gets_a_port_of_its_own_from_the_system(host: str, local: str) -> None:
    dgram, plain = lines(f"udp://{host}:5")
    assert f"local.host={local},local.port=0,remote.type=inet,remote.host={host}," in dgram
    assert plain == f"socket,id=net0,udp={host}:5,localaddr={local}:0"


def test_a_unix_datagram_guests_ends_are_ours_mirrored() -> None:
    assert lines("unixgram:///run/sw?remote=/run/vm") == [
        "dgram,id=net0,local.type=unix,local.path=/run/vm,remote.type=unix,remote.path=/run/sw"
    ]


def test_each_guest_of_a_unix_datagram_listener_has_a_path_of_its_own() -> None:
    end = ",remote.type=unix,remote.path=/run/a,,b"
    start = "dgram,id=net0,local.type=unix,local.path=/run/a,,b"
    assert lines("unixgram:///run/a,b") == [f"{start}.c400dd{end}"]
    assert lines("unixgram:///run/a,b", guest=WEB) == [f"{start}.web{end}"]


def test_a_guests_name_cannot_lead_its_path_elsewhere() -> None:
    labels = [qemu.named_guest(name).label for name in ("../x", "..%2Fx", "x", ".")]
    assert len(set(labels)) == 4
    assert not any("/" in label for label in labels)


def test_a_guests_path_that_is_too_long_is_an_error() -> None:
    directory = "/run/" + "d" * 95
    assert lines(f"unixgram://{directory}")
    with pytest.raises(InputError, match="108 bytes"):
        lines(f"unixgram://{directory}", guest=qemu.named_guest("sevenxx"))


def test_a_vde_guest_names_the_directory() -> None:
    assert lines("vde:///run/lan,1/") == ["vde,id=net0,sock=/run/lan,,1"]


MEMORY = ["-m", "1G", "-object", "memory-backend-memfd,id=ram,share=on,size=1G", "-machine", "memory-backend=ram"]


@pytest.mark.parametrize(
    ("query", "version", "ends", "card"),
    [
        ("", (7, 2), "reconnect=1", ",vectors=0"),
        ("", (8, 0), "reconnect=1", ""),
        ("", (9, 1), "reconnect=1", ""),
        ("", (9, 2), "reconnect-ms=1000", ""),
        ("?connect", (5, 0), "server=on,wait=off", ",vectors=0"),
        ("?connect", (10, 0), "server=on,wait=off", ""),
    ],
)
def test_a_vhost_user_guest_shares_its_memory_by_a_socket(
    query: str, version: qemu.Version, ends: str, card: str
) -> None:
    netdev = qemu.best_netdev(parse(f"vhost-user:///run/a,b{query}"), version, ANY)
    assert qemu.words(netdev, A, 1400) == [
        *MEMORY,
        *("-chardev", f"socket,id=vhost-net0,path=/run/a,,b,{ends}"),
        *("-netdev", "vhost-user,id=net0,chardev=vhost-net0"),
        *("-device", f"virtio-net-pci,netdev=net0,mac={A}{card},host_mtu=1400"),
    ]
    memory, *others = netdev.notes
    assert memory.startswith("-m and size= are both the guest's memory")
    assert any("KVM" in note for note in others) == bool(card)


def test_what_an_old_qemu_cannot_do_with_its_memory_is_an_error() -> None:
    with pytest.raises(InputError, match=r"QEMU 4\.2 .* 5\.0 or newer"):
        qemu.best_netdev(parse("vhost-user:///run/lan"), (4, 2), ANY)


@pytest.mark.parametrize(
    ("more", "theirs"),
    [
        ("", ""),
        ("&rxsession=8", ""),
        ("&txcookie=8badf00d&rxcookie=00000001", ",txcookie=0x00000001,rxcookie=0x8badf00d"),
        (
            "&txcookie=8badf00d00000002&rxcookie=0000000000000001&pincounter&offset=4",
            ",txcookie=0x0000000000000001,rxcookie=0x8badf00d00000002,cookie64=on,counter=on,pincounter=on,offset=4",
        ),
        ("&counter", ",counter=on"),
    ],
)
def test_a_session_is_ours_mirrored(more: str, theirs: str) -> None:
    ends = "src=127.0.0.2,dst=127.0.0.1,udp=on,srcport=6000,dstport=5000"
    config = parse(f"l2tpv3://127.0.0.1:5000?remote=127.0.0.2:6000&session=7{more}")
    sessions = f"txsession={8 if 'rxsession' in more else 7},rxsession=7"
    assert qemu.l2tpv3_netdev(config) == f"l2tpv3,id=net0,{ends},{sessions}{theirs}"
    assert qemu.best_netdev(config, (2, 12), qemu.named_guest("web")).text == qemu.l2tpv3_netdev(config)


def test_a_session_without_udp_has_no_ports() -> None:
    config = parse("l2tpv3://[fd00::1]?remote=[fd00::2]&session=7&udp=no")
    assert qemu.l2tpv3_netdev(config) == "l2tpv3,id=net0,src=fd00::2,dst=fd00::1,ipv6=on,txsession=7,rxsession=7"


def test_every_path_is_printed_as_an_absolute_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert lines("vde://lan") == ["vde,id=net0,sock=/tmp/lan"]
    (dgram,) = lines("unixgram://a?remote=b")
    assert "local.path=/tmp/b," in dgram
    assert dgram.endswith("remote.path=/tmp/a")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("fd://3", "socket,id=net0,fd=N"),
        ("vde:///run/v?connect", "-netdev vde,id=net0,sock=/run/v"),
        ("udp://[::1]:5", "IPv4"),
        ("udp://127.0.0.1:5?remote=[::1]:7", "IPv4"),
        ("vxlan://127.0.0.1?vni=5&learn", "is the VXLAN segment 5"),
        ("l2tpv3://127.0.0.1?remote=127.0.0.2&session=1&txcookie=8badf00d", "a cookie each way of the same length"),
    ],
)
def test_where_no_line_of_qemus_plugs_in_it_is_said_what_does(url: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        lines(url)


def test_the_netdev_can_be_called_otherwise() -> None:
    for url in ("tcp://h:1", "unix:///a", "mcast://230.0.0.1:5", "udp://h:5", "unixgram:///a", "vde:///a"):
        for netdev in qemu.netdevs(parse(url), (7, 2), ANY, "nic7"):
            assert ",id=nic7," in netdev.text


def test_a_named_guests_address_is_its_names_alone() -> None:
    assert qemu.named_guest("web") == qemu.Guest("52:54:00:4b:5e:57", "web")
    assert qemu.named_guest("Windows 10").mac != qemu.named_guest("windows 10").mac
    assert re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", qemu.named_guest("Höhle/ü").mac)


@pytest.mark.parametrize("name", ["", " ", "\n", "a\nb", "a\x1b[31m", "a\0", "\udcff", "a\u202eb"])
def test_a_guests_name_can_be_printed(name: str) -> None:
    with pytest.raises(InputError, match="guest's name"):
        qemu.named_guest(name)


def test_a_guest_has_an_address_of_its_own_that_stays_the_same() -> None:
    addresses = {
        qemu.guest_mac(switch, endpoint, guest)
        for switch in ("default", "lab")
        for endpoint in ("tcp1", "unix1")
        for guest in ("1", "2")
    }
    assert len(addresses) == 8
    assert all(re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", address) for address in addresses)
    assert qemu.guest_mac("default", "tcp1", "1") == "52:54:00:c4:00:dd"
    assert qemu.guest_mac("ab", "c") != qemu.guest_mac("a", "bc")


# What a port's policy asks of the line

A, B, C = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"


def macs(*texts: str) -> tuple[int, ...]:
    return tuple(map(read_mac, texts))


@pytest.mark.parametrize("given", [*QUERIES, "mirror_of=%2526,a%26b,%ff,%2f", "rate=3fps&burst=1.0019s"])
def test_a_policy_is_written_as_it_is_read(given: str) -> None:
    found = policy(given)
    written = query(found)
    assert parse(f"{PORT}&{written}").policy == found
    assert written.isascii()


@pytest.mark.parametrize(
    ("given", "senders", "stations"),
    [
        ("", None, ()),
        ("sticky&max_macs=1", None, ()),
        (f"allow_mac={B},{A}", (B, A), (B, A)),
        (f"static={B},{A}", None, (B, A)),
        (f"trunk=1,2&static={B}@1,{A}@1,{B}@2", None, (B, A)),
        (f"static={B}&locked", (B,), (B,)),
        (f"static={C},{B}&allow_mac={A},{B}", (B, A), (B, A)),
        (f"static={C},{B}&allow_mac={A},{B}&locked", (B,), (B,)),
        (f"static={C}&allow_mac={A}&locked", (), ()),
        ("locked", None, ()),
        (f"locked&allow_mac={A}", (A,), (A,)),
    ],
)
def test_who_may_send_and_whose_address_is_printed(
    given: str, senders: tuple[str, ...] | None, stations: tuple[str, ...]
) -> None:
    found = policy(given)
    assert found.senders == (None if senders is None else macs(*senders))
    assert found.stations == macs(*stations)
    for mac in macs(A, B, C):
        assert (found.lacks(mac) == []) == (found.senders is None or mac in found.senders)


@pytest.mark.parametrize("given", ["", "vlan=10", "trunk=10", "trunk=10&native=20", "qinq=100"])
@pytest.mark.parametrize("size", [86, 1400, 1513, 1514, 1517, 1518, 9018])
def test_what_a_guest_with_the_mtu_sends_and_is_sent_is_not_too_long(given: str, size: int) -> None:
    found = policy(f"{given}&max_frame={size}")
    longest = found.mtu + 14 + (4 if given.startswith(("trunk", "qinq")) else 0)
    ingress, egress = build_ingress(found), build_egress(found)
    assert ingress is not None
    assert egress is not None
    assert egress.frame_max == size
    assert (ingress.check_frame(longest, 0), ingress.check_frame(longest + 1, 0)) == (PASSED, TOO_LONG)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", None),
        ("max_frame=9018", None),
        ("max_frame=1514", None),
        ("max_frame=1513", 1499),
        ("max_frame=1414", 1400),
        ("max_frame=82", 68),
        ("max_frame=81", None),
        ("trunk=10&max_frame=1518", None),
        ("trunk=10&native=20&max_frame=1517", 1499),
        ("qinq=10&max_frame=1418", 1400),
        ("vlan=10&max_frame=1514", None),
        ("vlan=10&max_frame=1513", 1499),
    ],
)
def test_a_card_is_told_an_mtu_below_the_usual_one_that_a_driver_takes(given: str, told: int | None) -> None:
    assert qemu.host_mtu(policy(given)) == told


@pytest.mark.parametrize(
    ("given", "mtu", "told"), [("", 9000, 9000), ("", 1500, None), ("max_frame=4014", 9000, 4000), ("", 1280, 1280)]
)
def test_a_card_is_told_the_mtu_of_a_user_network(given: str, mtu: int, told: int | None) -> None:
    beside = [parse("tcp://127.0.0.1:1234"), parse(f"user://?mtu={mtu}")]
    assert qemu.host_mtu(policy(given), beside) == told


def test_the_mtu_is_the_devices() -> None:
    assert qemu.words(plain("n"), A, 1400)[-1] == f"virtio-net-pci,netdev=net0,mac={A},host_mtu=1400"
    assert qemu.arguments(plain("n"), A, 1400) == f"-netdev n -device virtio-net-pci,netdev=net0,mac={A},host_mtu=1400"


def test_addresses_are_given_in_order_and_then_the_one_that_was_longest_ago() -> None:
    given: list[str] = []
    for expected in (A, B, C, A, B):
        mac = qemu.next_mac([A, B, C], given)
        assert mac == expected
        given = [*(other for other in given if other != mac), mac]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", []),
        (f"allow_mac={A}&locked&static={A}&sticky", []),
        ("vlan=10", ["in VLAN 10: the guest sends frames without a tag"]),
        ("trunk=10,20", ["in VLAN 10, 20: the guest has to tag its frames"]),
        ("trunk=all", ["in VLAN all: the guest has to tag its frames"]),
        ("trunk=10,30&native=30", ["in VLAN 30 without a tag, in VLAN 10 with one"]),
        ("trunk=all&native=30", ["in VLAN 30 without a tag, in VLAN all with one"]),
        ("trunk=30&native=30", ["in VLAN 30 without a tag"]),
        ("trunk=1,2,3,4,5,6,7,8,9,10", ["in VLAN 1, 2, 3, 4, 5, 6, 7, 8, 2 more: the guest has to tag its frames"]),
        ("qinq=100", ["in service VLAN 100: tags are the guest's own"]),
        ("max_frame=60", ["max_frame=60: the guest's MTU has to be 46 or less"]),
        ("up=no&vlan=2", ["up=no: ", "in VLAN 2: "]),
        ("mirror_of=--%3E", ["a mirror: "]),
        ("locked", ["locked=yes without static=: "]),
        (f"locked&static={A}&allow_mac={B}", ["no guest may send here: "]),
    ],
)
def test_what_is_to_be_known_of_a_port_is_a_line_that_is_safe_in_any_comment(given: str, said: list[str]) -> None:
    found = remarks(policy(given))
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))
    assert not any("--" in line or not line.isprintable() for line in found)
