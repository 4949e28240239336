"""`serve` with every kind of endpoint: what is written wrongly, and what the moment refuses, in one line."""

import os
import socket
from pathlib import Path

import pytest

from tests.cli.program import Home, check_refused
from tests.endpoints.kinds import sockaddr_un, udp_socket, vde_request
from tests.waiting import until


def refused(home: Home, *arguments: str, code: int, said: str) -> None:
    check_refused(home, *arguments, code=code, said=said)
    assert not home.control().exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mcast://127.0.0.1:1234", "127.0.0.1 is no IPv4 multicast group; write one like mcast://230.0.0.1:1234"),
        ("mcast://230.0.0.1:1234?iface=192.0.2.1", "insecure=yes"),
        ("udp://0.0.0.0:0", "insecure=yes"),
        ("udp://127.0.0.1:0?remote=192.0.2.1:5", "reaches this machine only"),
        ("udp://127.0.0.1:0?remote=[::1]:5", "write both alike"),
        ("unixgram://a.sock?remote=a.sock", "both ends are the same path"),
        ("unixgram:///" + "x" * 107, "107"),
        ("vde:///" + "x" * 107, "107"),
        ("vde:///" + "x" * 95, "use one of at most"),
        ("vde://lan?group=no-such-group", "there is no group 'no-such-group'"),
        ("vde://lan?group=99999999999", "there is no group '99999999999'"),
        ("vde://lan?port=5", "is for vde:// with connect"),
        ("tap://interface-name-too-long", "cannot be an interface's name"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_written_wrongly_is_exit_code_2(home: Home, url: str, said: str) -> None:
    refused(home, url, code=2, said=said)
    assert not (home.root / "lan").exists()


def test_a_working_directory_too_deep_for_a_vde_switch_is_exit_code_2(home: Home) -> None:
    refused(home, "vde://" + "x" * 80, code=2, said="the path is too long for the sockets in it")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mcast://230.0.0.1:1234?iface=nonexistent0", "there is no interface nonexistent0"),
        ("mcast://230.0.0.1:1234?iface=192.0.2.1&insecure", "Cannot assign requested address; use an address"),
        ("udp://192.0.2.1:5?insecure", "Cannot assign requested address; use an address of this machine"),
        ("udp://127.0.0.1:0?remote=nonexistent.invalid:5", "remote: "),
        ("unixgram:///nonexistent/lan.sock", "No such file or directory; make its directory first"),
        ("vde:///nonexistent/lan", "No such file or directory; make its directory first"),
        ("vde:///dev/null", "exists and is not a directory"),
        ("vde:///proc/lan", "cannot make the directory /proc/lan"),
    ],
)
def test_what_the_moment_refuses_is_exit_code_1(home: Home, url: str, said: str) -> None:
    refused(home, url, code=1, said=said)


def test_a_udp_port_in_use_is_exit_code_1(home: Home) -> None:
    with udp_socket("127.0.0.1") as other:
        url = f"udp://127.0.0.1:{other.getsockname()[1]}"
        refused(home, url, code=1, said=f"cannot listen on {url}: Address already in use")


def test_a_unix_datagram_socket_in_use_is_exit_code_1(home: Home) -> None:
    path = home.root / "lan.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(bytes(path))
        refused(home, f"unixgram://{path}", code=1, said=f"{path} is in use")
    assert path.is_socket()


def test_what_is_no_socket_at_a_unix_datagram_path_is_exit_code_1(home: Home) -> None:
    path = home.root / "lan.sock"
    path.write_text("precious")
    refused(home, f"unixgram://{path}", code=1, said=f"{path} exists and is not a socket")
    assert path.read_text() == "precious"


def plugged(directory: Path) -> bool:
    """Whether a client gets an answer from the VDE switch at a directory."""
    with socket.socket(socket.AF_UNIX) as ctl:
        ctl.settimeout(20)
        ctl.connect(bytes(directory / "ctl"))
        ctl.send(vde_request(b""))
        return len(ctl.recv(4096)) == len(sockaddr_un(b""))


def test_a_vde_directory_in_use_is_exit_code_1_and_goes_on_working(home: Home) -> None:
    path = home.root / "lan"
    with home.serve(f"vde://{path}?mode=0660", "--name", "first") as first:
        for parameters in ("", "?mode=0666", "?dirmode=0777&group=0"):
            before = path.stat().st_mode
            refused(home, f"vde://{path}{parameters}", code=1, said=f"{path}/ctl is in use")
            assert path.stat().st_mode == before
            assert plugged(path)
        assert first.stop() == 0
    assert not path.exists()


def test_a_vde_directory_of_a_killed_switch_is_used_again(home: Home) -> None:
    path = home.root / "lan"
    with home.serve(f"vde://{path}", "--name", "first"):
        assert plugged(path)
    assert (path / "ctl").is_socket()  # it was killed
    with home.serve(f"vde://{path}", "--name", "second") as second:
        assert plugged(path)
        until(lambda: home.get("ports", "second") == [], "the client is gone")
        assert os.listdir(path) == ["ctl"]
        assert second.stop() == 0
    assert not path.exists()


def test_a_vde_directory_that_is_a_link_is_exit_code_1(home: Home) -> None:
    (home.root / "lan").symlink_to(home.root)
    refused(home, f"vde://{home.root}/lan", code=1, said=f"{home.root}/lan is a symbolic link")
    assert (home.root / "lan").is_symlink()
