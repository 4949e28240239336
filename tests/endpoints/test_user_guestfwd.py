"""`guestfwd=`: servers in a user network that are programs, ports and sockets of this machine."""

import os
import socket
import sys
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import trio
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.endpoints.user_guest import GATEWAY, Guest
from tests.peers import until
from vswitch import InputError, VSwitch
from vswitch.endpoints.url import parse
from vswitch.endpoints.user import guest_connection

pytestmark = pytest.mark.usefixtures("libslirp")

MAC = "52:54:00:00:00:0a"
SERVER = "10.0.2.100"


class Connection:
    """A guest's, by hand."""

    def __init__(self, guest: Guest, port: int) -> None:
        self._guest = guest
        self._ports: dict[str, Any] = {"sport": 1000, "dport": port}
        self._seq, self._ack = 1, 0

    async def _send(self, flags: str, data: bytes = b"") -> None:
        segment = TCP(flags=flags, seq=self._seq, ack=self._ack, window=60000, **self._ports) / Raw(data)
        await self._guest.send(Ether(src=MAC, dst=GATEWAY) / IP(src=self._guest.ip, dst=SERVER) / segment)

    async def open(self) -> "Connection":
        await self._send("S")
        answer = await self._guest.receive(TCP)
        assert (answer[IP].src, answer[TCP].flags) == (SERVER, "SA")
        self._seq, self._ack = 2, answer[TCP].seq + 1
        await self._send("A")
        return self

    async def say(self, data: bytes) -> None:
        await self._send("PA", data)
        self._seq += len(data)

    async def hear(self, size: int) -> bytes:
        """So many bytes, or fewer if that is all."""
        heard = b""
        while len(heard) < size:
            segment = await self._guest.receive(TCP)
            data = bytes(segment[TCP].payload)[: segment[IP].len - 40]
            assert "R" not in segment[TCP].flags
            if segment[TCP].seq == self._ack:
                heard += data
                self._ack += len(data)
                await self._send("A")
                if "F" in segment[TCP].flags:
                    break
        return heard


async def plugged(switch: VSwitch) -> Guest:
    guest = await Guest.plugged_into(switch, "a", MAC)
    await guest.lease()
    return guest


async def test_each_connection_is_a_program_which_ends_with_the_network(switch: VSwitch, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid())); os.write(1, os.read(0, 99).upper()); input()"
    net = await switch.attach("user://10.0.2.0/24", guestfwd=[f'tcp:{SERVER}:7-cmd:{sys.executable} -c "{code}"'])
    connection = await Connection(await plugged(switch), 7).open()
    await connection.say(b"hello\n")
    assert await connection.hear(6) == b"HELLO\n"
    number = int(pid.read_text())
    os.kill(number, 0)
    await net.detach()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_connection_goes_on_to_a_port_or_a_socket(switch: VSwitch, tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "server.sock")
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    sock.bind(path if kind == "unix" else ("127.0.0.1", 0))
    sock.listen()
    target = path if kind == "unix" else f"127.0.0.1:{sock.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        await switch.attach("user://10.0.2.0/24", guestfwd=[f"tcp:{SERVER}:7-{kind}:{target}"])
        connection = await Connection(await plugged(switch), 7).open()
        for _ in range(3):
            await connection.say(b"hello\n")
            assert await connection.hear(6) == b"hello\n"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("target", ["cmd:/nonexistent/program", "unix:/nonexistent/socket"])
async def test_what_is_not_there_ends_the_connection_and_is_logged(
    switch: VSwitch, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    await switch.attach("user://10.0.2.0/24?name=net", guestfwd=[f"tcp:{SERVER}:7-{target}"])
    connection = await Connection(await plugged(switch), 7).open()
    assert await connection.hear(1) == b""
    said = f"net: guestfwd: {target.partition(':')[2]}: No such file or directory"
    await until(lambda: said in caplog.messages)
    assert switch.failures.total == 0


async def test_what_does_not_answer_is_logged_in_time(
    switch: VSwitch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: object) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(guest_connection, "_connect", never)
    monkeypatch.setattr(guest_connection, "CONNECT_S", 0.01)
    await switch.attach("user://10.0.2.0/24?name=net", guestfwd=[f"tcp:{SERVER}:7-tcp:192.0.2.1:80"])
    connection = await Connection(await plugged(switch), 7).open()
    assert await connection.hear(1) == b""
    await until(lambda: "net: guestfwd: 192.0.2.1:80 does not answer" in caplog.messages)
    assert switch.failures.total == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tcp:10.0.2.100:7", "leads nowhere; write it like tcp:10.0.2.100:1234-cmd:/usr/bin/cat"),
        ("udp:10.0.2.100:7-cmd:cat", "leads nowhere"),
        ("tcp:10.0.2.100:7-cmd:'", "is no command"),
        ("tcp:10.0.2.100:70000-cmd:cat", "port 70000 is out of range"),
        ("tcp:web:7-cmd:cat", "'web' is not an IP address"),
        ("tcp:10.0.3.100:7-cmd:cat", "10.0.3.100 is no free address in 10.0.2.0/24"),
        ("tcp:10.0.2.2:7-cmd:cat", "10.0.2.2 is no free address"),
        ("tcp:[fd00::1]:7-cmd:cat", "fd00::1 is no free address in fec0::/64"),
        ("tcp::7-tcp:8080", "is no host and port; write it like 127.0.0.1:8080"),
        ("tcp::7-unix:here", "'here' is no absolute path"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse("user://10.0.2.0/24", {"guestfwd": [text]})
    assert said in str(caught.value)


def test_what_is_written_is_read_back() -> None:
    wanted = ["tcp:10.0.2.100:7-cmd:sh -c 'a & b, c? %41'", "tcp::80-tcp:[::1]:8080", "tcp:[fec0::7]:80-unix:/run/web"]
    config = parse("user://10.0.2.0/24", {"guestfwd": wanted})
    assert [str(server) for server in config.user.guestfwd] == wanted
    assert parse(config.full_url) == config
    assert str(config.user.guestfwd[1].address(IPv4Network("10.0.2.0/24"))) == "10.0.2.4"
