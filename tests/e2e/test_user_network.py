"""Guests on a user network: addresses, names, what is outside, and who comes in."""

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.e2e.guest import guest_image
from tests.needs import require
from vswitch import RefusedError
from vswitch.services.user_network.slirp import Library
from vswitch.testing import Guest, Lan

HTTP = b"HTTP/1.0 200 OK\r\n\r\n"
CONTENT = os.urandom(1 << 20)


@pytest.fixture(autouse=True)
def library() -> None:
    guest_image()
    try:
        Library()
    except RefusedError as error:
        require(False, str(error))


@contextmanager
def web_server(family: socket.AddressFamily, host: str) -> Iterator[int]:
    """On this machine's loopback; its port."""
    with socket.create_server((host, 0), family=family) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(1000)
                    client.sendall(HTTP + CONTENT)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def server() -> Iterator[int]:
    with web_server(socket.AF_INET, "127.0.0.1") as port:
        yield port


@pytest.fixture
def server6() -> Iterator[int]:
    with web_server(socket.AF_INET6, "::1") as port:
        yield port


def need_ipxe() -> None:
    require(Path("/usr/lib/ipxe/qemu/pxe-virtio.rom").exists(), "there is no iPXE; install ipxe-qemu")


def need_smb() -> None:
    for program in ("smbd", "smbclient"):
        require(shutil.which(program) is not None, f"there is no {program}; install samba and smbclient")


async def joined(lan: Lan, name: str) -> Guest:
    """A guest that has an address from the network, and no other."""
    guest = await lan.guest(name)
    (await guest.run(f"ip addr flush dev eth0; udhcpc -nq -i eth0 -x hostname:{name}")).check()
    return guest


def sent_to(lan: Lan, name: str) -> int:
    """Frames that a port was sent."""
    (frames,) = [port.tx_frames for port in lan.switch.ports() if port.name == name]
    return frames


async def test_guests_know_each_other_by_name_and_reach_what_is_outside(lan: Lan, server: int) -> None:
    await lan.switch.attach("user://10.0.2.0/24?host_access=yes")
    a, b = await joined(lan, "a"), await joined(lan, "b")
    assert "10.0.2.15/24" in (await a.run("ip addr show eth0")).stdout
    assert "10.0.2.16" in (await a.run("ping -c 1 b.lan")).check().stdout
    assert "b.lan" in (await a.run("nslookup 10.0.2.16")).check().stdout
    assert not (await a.run("nslookup nobody.lan")).ok
    for guest in (a, b):
        (await guest.run(f"wget -q -O /tmp/got http://host.lan:{server}/")).check()
        assert await guest.get("/tmp/got") == CONTENT
    before = sent_to(lan, "user1")
    (await a.run("ping -c 20 -i 0.01 10.0.2.16")).check()
    assert sent_to(lan, "user1") - before < 10, "guests talk to each other without it"


async def test_guests_have_ipv6_by_their_router(lan: Lan, server6: int) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
        port = free.getsockname()[1]
    await lan.switch.attach(f"user://10.0.2.0/24?host_access=yes&hostfwd=tcp:[::1]:{port}-b:80")
    a, b = await joined(lan, "a"), await joined(lan, "b")
    for guest in (a, b):
        enabled = "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0"
        waits = "for i in $(seq 100); do ip -6 addr show eth0 | grep fec0:: && exit; sleep 0.1; done; false"
        (await guest.run(f"{enabled}; {waits}")).check()
    assert "default via fe80::5055:aff:fe00:202" in (await a.run("ip -6 route")).stdout
    (await a.run("ping -6 -c 1 b.lan && ping -6 -c 1 host.lan")).check()
    (await a.run(f"wget -q -O /tmp/got http://[fec0::2]:{server6}/")).check()
    assert await a.get("/tmp/got") == CONTENT
    await b.put(b"hello", "/tmp/file")
    (await b.run("httpd -h /tmp")).check()
    async with await trio.open_tcp_stream("::1", port) as stream:
        await stream.send_all(b"GET /file HTTP/1.0\r\n\r\n")
        assert b"".join([data async for data in stream]).endswith(b"hello")


async def test_this_machine_reaches_a_guest_by_a_forward(lan: Lan) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    await lan.switch.attach(f"user://10.0.2.0/24?hostfwd=tcp::{port}-web:80")
    await joined(lan, "a")
    web = await joined(lan, "web")
    await web.put(CONTENT, "/tmp/file")
    (await web.run("httpd -h /tmp")).check()
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /file HTTP/1.0\r\n\r\n")
        async for data in stream:
            received += data
    assert received.endswith(CONTENT)


async def test_a_guest_reads_a_large_file_by_tftp(lan: Lan, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 33
    (tmp_path / "large").write_bytes(content)
    await lan.switch.attach(f"user://10.0.2.0/24?tftp={tmp_path}&mtu=17000")
    a = await joined(lan, "a")
    (await a.run("ip link set eth0 mtu 17000; cd /tmp; tftp -b 16384 -g -r large 10.0.2.2")).check()
    said = (await a.run("sha256sum /tmp/large")).check().stdout.split()[0]
    assert said == hashlib.sha256(content).hexdigest()
    assert not (await a.run("tftp -g -r ../etc/passwd 10.0.2.2")).ok


async def test_a_folder_is_shared_by_smb(lan: Lan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_smb()
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    shared.mkdir()
    mine.mkdir()
    temporary = tempfile.mkdtemp(prefix="vs-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    (shared / "there").write_bytes(CONTENT)
    (mine / "new").write_bytes(CONTENT[::-1])
    net = await lan.switch.attach(f"user://10.0.2.0/24?smb={shared}")
    station = await lan.namespace("station")
    (await station.run("ip addr add 10.0.2.50/24 dev eth0")).check()
    commands = f"ls; lcd {mine}; get there; put new"
    listed = (await station.run(f"smbclient -N //10.0.2.4/qemu -c '{commands}'")).check().stdout
    assert "there" in listed
    assert ((mine / "there").read_bytes(), (shared / "new").read_bytes()) == (CONTENT, CONTENT[::-1])
    with pytest.raises(RefusedError, match="is no folder"):
        await lan.switch.attach(f"user://10.0.3.0/24?smb={shared}/there")
    await net.detach()
    assert [name for name in os.listdir(temporary) if "smb" in name] == []
    shutil.rmtree(temporary)
    (tmp_path / ("x" * 80)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    with pytest.raises(RefusedError, match="is too long a path for smbd's sockets; set TMPDIR=/tmp"):
        await lan.switch.attach(f"user://10.0.3.0/24?smb={shared}")


async def test_ipxe_boots_what_it_is_told_to(lan: Lan, tmp_path: Path) -> None:
    """QEMU's own boot ROM: an address, a boot file's name, and the file by TFTP."""
    need_ipxe()
    (tmp_path / "boot.ipxe").write_text("#!ipxe\necho booted ${filename} at ${net0/ip}\n")
    await lan.switch.attach(f"user://10.0.2.0/24?tftp={tmp_path}&bootfile=boot.ipxe")
    here, there = socket.socketpair()
    await lan.switch.attach(here, name="pxe")
    machine = ("-M", "pc,graphics=off", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-boot", "n")
    card = ("-netdev", f"socket,id=net,fd={there.fileno()}", "-device", "virtio-net-pci,netdev=net")
    command = ["qemu-system-x86_64", *machine, "-serial", "stdio", *card]
    output = b""
    async with await trio.open_file(os.devnull) as nothing:
        with there, trio.fail_after(60):
            process = await trio.lowlevel.open_process(
                command, stdin=nothing.fileno(), stdout=subprocess.PIPE, pass_fds=[there.fileno()]
            )
            assert process.stdout is not None
            try:
                while b"booted boot.ipxe at 10.0.2.15" not in output:
                    data = await process.stdout.receive_some(1 << 16)
                    assert data, output
                    output += data
            finally:
                process.kill()
                await process.wait()
