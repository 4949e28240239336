"""The lines to paste: right for each QEMU's version, and safe to paste into a shell."""

import re
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vswitch.endpoints import qemu
from vswitch.endpoints.url import EndpointConfig, parse

TCP = parse("tcp://127.0.0.1:1234")
UNIX = parse("unix:///run/lan.sock")


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
    words = shlex.split(qemu.arguments(netdev, "52:54:00:00:00:01"))
    assert words == ["-netdev", netdev, "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01"]


@pytest.mark.parametrize("special", "*?[]{}~!#<>|&;()'\"`$\\ ")
def test_a_character_that_means_something_to_a_shell_is_quoted(special: str) -> None:
    line = qemu.arguments(f"x{special}y", "52:54:00:00:00:01")
    assert f" x{special}y " not in line
    assert shlex.split(line)[1] == f"x{special}y"


def test_plain_lines_have_no_quotes() -> None:
    netdev = qemu.stream_netdev(TCP, (9, 2))
    assert netdev is not None
    assert qemu.arguments(netdev, "52:54:00:00:00:01").split()[1] == netdev


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
