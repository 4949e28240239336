"""A user network's name server: guests ask it by TCP, and programs of this machine where `dns_listen=` says."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import dnslib  # type: ignore[import-untyped]
import pytest
import trio

from tests.endpoints.user_guest import Guest, child_of, restarted
from tests.namespaces import needed_for_tap, own_network
from tests.needs import require
from tests.peers import TIMEOUT_S
from tests.services.dns_server import bound_pair
from vswitch import InputError, RefusedError, VSwitch
from vswitch.endpoints.url import parse
from vswitch.testing import Lan

pytestmark = pytest.mark.usefixtures("libslirp")

MAC = "52:54:00:00:00:0a"


def free_port() -> int:
    """For UDP and TCP."""
    udp, tcp = bound_pair(socket.AF_INET, ("127.0.0.1", 0))
    with udp, tcp:
        port: int = udp.getsockname()[1]
        return port


async def ask(port: int, name: str, kind: str = "A", *, tcp: bool = False) -> tuple[str, list[str]]:
    question = dnslib.DNSRecord.question(name, kind)
    data = await trio.to_thread.run_sync(lambda: question.send("127.0.0.1", port, tcp=tcp, timeout=TIMEOUT_S))
    record = dnslib.DNSRecord.parse(data)
    assert record.header.id == question.header.id
    return dnslib.RCODE[record.header.rcode], [str(answer.rdata) for answer in record.rr]


async def test_programs_of_this_machine_ask_for_guests_names_whatever_happens_to_its_process(switch: VSwitch) -> None:
    port = free_port()
    await switch.attach(f"user://10.0.2.0/24?name=net&restrict=yes&dns_listen=127.0.0.1:{port}")
    a = await Guest.plugged_into(switch, "a", MAC)
    await a.lease("web")
    for tcp in (False, True):
        assert await ask(port, "web.lan", tcp=tcp) == ("NOERROR", [a.ip])
        assert await ask(port, "15.2.0.10.in-addr.arpa", "PTR", tcp=tcp) == ("NOERROR", ["web.lan."])
        assert await ask(port, "nobody.lan", tcp=tcp) == ("NXDOMAIN", [])
        assert await ask(port, "example.com", tcp=tcp) == ("REFUSED", [])
    async with restarted(switch, signal.SIGKILL):
        assert await ask(port, "web.lan") == ("NOERROR", [a.ip]), "by the next one"
    assert await ask(port, "web.lan", tcp=True) == ("NOERROR", [a.ip])
    await switch.attachments.detach("net")
    with pytest.raises(ConnectionRefusedError):
        await ask(port, "web.lan", tcp=True)


async def test_nonsense_from_this_machine_costs_nobody_anything(switch: VSwitch) -> None:
    port = free_port()
    await switch.attach(f"user://10.0.2.0/24?dns_listen=127.0.0.1:{port}")
    process = child_of(os.getpid())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, ExitStack() as connections:
        for nonsense in (b"", b"\0\7", b"\0" * 12, b"\xff" * 600, b"\0\x0c" + b"\1" * 12):
            udp.sendto(nonsense, ("127.0.0.1", port))
            connections.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(nonsense)
        for _ in range(100):  # more than are kept
            connections.enter_context(socket.create_connection(("127.0.0.1", port)))
        for tcp in (False, True):
            assert await ask(port, "host.lan", tcp=tcp) == ("NOERROR", ["10.0.2.2"])
    assert child_of(os.getpid()) == process


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_port_that_others_have_is_refused(switch: VSwitch, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RefusedError) as caught:
            await switch.attach(f"user://10.0.2.0/24?dns_listen={here}")
    advice = "stop what listens there or use another port"
    assert str(caught.value) == f"dns_listen: cannot listen on {here}: Address already in use; {advice}"
    assert switch.ports() == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("0.0.0.0:53", "dns_listen: 0.0.0.0:53: anyone on the network could ask; add insecure=yes if that is meant"),
        ("[::]:53", "dns_listen: [::]:53: anyone on the network could ask"),
        ("127.0.0.1:0", "dns_listen: port 0 is out of range; 1 to 65535"),
        ("127.0.0.1:70000", "dns_listen: port 70000 is out of range"),
        ("127.0.0.1", "'127.0.0.1' is no address and port of this machine; write 127.0.0.1:5300"),
        ("localhost:5300", "'localhost:5300' is no address and port"),
        ("::1:5300", "'::1:5300' is no address and port"),
        ("", "'' is no address and port"),
    ],
)
def test_what_is_wrong_is_said(place: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(f"user://10.0.2.0/24?dns_listen={place}")
    assert said in str(caught.value)


@pytest.mark.parametrize("place", ["127.0.0.1:5300", "[::1]:53", "127.0.0.53:53", "0.0.0.0:53&insecure=yes"])
def test_what_is_written_is_read_back(place: str) -> None:
    config = parse(f"user://10.0.2.0/24?dns_listen={place}")
    assert parse(config.full_url) == config
    assert f"dns_listen={place}" in config.full_url


def getent(server: str, options: str, tmp_path: Path) -> str:
    """A command that has the C library ask a name server for all names."""
    for program in ("unshare", "getent", "mount"):
        require(shutil.which(program), f"there is no {program}")
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    require(done.returncode == 0, "mounts are not allowed here")
    file = tmp_path / "resolv.conf"
    file.write_text(f"nameserver {server}\noptions {options} timeout:20 attempts:1\n")
    return f"unshare --mount sh -c 'mount --bind {file} /etc/resolv.conf && getent hosts \"$@\"' sh"


def started(command: str) -> "subprocess.Popen[str]":
    """By this thread: others are in other networks."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, shell=True)


async def output(command: str) -> list[str]:
    with started(command) as process:
        said, _ = await trio.to_thread.run_sync(process.communicate, None, TIMEOUT_S)
        return said.split()


@pytest.mark.parametrize("options", ["use-vc", "edns0"])
async def test_the_resolver_of_the_c_library_finds_guests(tmp_path: Path, options: str) -> None:
    hosts = getent("127.0.0.1", options, tmp_path)
    with own_network():
        async with VSwitch() as switch:
            await switch.attach("user://10.0.2.0/24?name=net&dns_listen=127.0.0.1:53")
            a = await Guest.plugged_into(switch, "a", MAC)
            await a.lease("web")
            assert await output(f"{hosts} web.lan") == [a.ip, "web.lan"]
            assert await output(f"{hosts} {a.ip}") == [a.ip, "web.lan"]
            assert await output(f"{hosts} nobody.lan") == []


@pytest.mark.parametrize("server", ["10.0.2.3", "fec0::3"])
async def test_the_resolver_of_the_c_library_asks_as_a_guest_by_tcp(lan: Lan, tmp_path: Path, server: str) -> None:
    needed_for_tap()
    hosts = getent(server, "use-vc", tmp_path)
    await lan.switch.attach("user://10.0.2.0/24?name=net&restrict=yes")
    web = await Guest.plugged_into(lan.switch, "web", MAC)
    await web.lease()
    station = await lan.namespace("station", ip="")
    enabled = "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0 && ip address add fec0::77/64 dev eth0 nodad"
    (await station.run(f"ip address add 10.0.2.77/24 dev eth0 && {enabled}")).check()
    assert (await station.run(f"{hosts} web.lan")).stdout.split() == [web.ip, "web.lan"]
    assert (await station.run(f"{hosts} {web.ip}")).stdout.split() == [web.ip, "web.lan"]
    assert (await station.run(f"{hosts} example.com")).status == 2, "which is refused"
