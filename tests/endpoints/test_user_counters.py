"""What the process of a user network counts, and what becomes of those who ask it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.control.test_metrics import samples
from tests.endpoints.user_guest import GATEWAY, Guest, child_of, restarted
from tests.peers import TIMEOUT_S, until
from vswitch import VSwitch
from vswitch.endpoints.user import child, counters

pytestmark = pytest.mark.usefixtures("libslirp")

MAC = "52:54:00:00:00:0a"


async def used(switch: VSwitch) -> tuple[Guest, list[Packet]]:
    """A guest with a name, what it has sent to a server of this machine, and that one's answer."""
    guest = await Guest.plugged_into(switch, "a", MAC)
    await guest.lease("web")
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        datagram = UDP(sport=1000, dport=server.getsockname()[1]) / Raw(b"hello")
        sent = Ether(src=MAC, dst=GATEWAY) / IP(src=guest.ip, dst="10.0.2.2") / datagram
        await guest.send(sent)
        with trio.fail_after(TIMEOUT_S):
            _, where = await server.recvfrom(100)
        await server.sendto(b"back", where)
        while UDP not in (received := await guest.receive(IP)) or received[UDP].dport != 1000:
            pass
    await guest.send(Ether(src=MAC, dst=GATEWAY) / IP(src=guest.ip, dst="10.0.2.77") / UDP())
    return guest, [sent, received]


async def test_what_a_guest_has_had_from_outside_is_told(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net&host_access=yes")
    guest, (sent, received) = await used(switch)
    await guest.ping("10.0.2.2")  # then all that it has sent before has come
    (net,) = await switch.user_networks.nat()
    (counted,) = net.guests
    assert (net.network, counted.mac, counted.ip, counted.name) == ("net", MAC, "10.0.2.15", "web")
    assert counted.out_frames == counted.in_frames == 2
    assert counted.out_bytes > len(sent)
    assert counted.in_bytes > len(bytes(received))
    assert counted.connections >= 1
    assert counted.drops == {"not_routed": 1}
    assert (net.others.out_frames, net.served) == (0, {"dhcp": 2, "dns": 0, "tftp": 0})
    assert net.age_s is not None
    assert net.age_s >= 0
    found = samples(await switch.metrics())
    assert found["vswitch_user_network_frames_total", 'network="net",direction="out"'] == 2
    assert found["vswitch_user_network_bytes_total", 'network="net",direction="in"'] == counted.in_bytes
    assert found["vswitch_user_network_drops_total", 'network="net",reason="not_routed"'] == 1
    assert found["vswitch_user_network_requests_total", 'network="net",service="dhcp"'] == 2
    assert found["vswitch_user_network_guests", 'network="net"'] == 1


async def test_many_who_look_at_once_have_one_answer(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    ages: list[float | None] = []

    async def look() -> None:
        ages.extend([net.age_s for net in await switch.user_networks.nat()])

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(look)
    assert len(ages) == 100
    assert None not in ages


async def test_a_process_that_hangs_holds_nobody_up(switch: VSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "ANSWER_S", 0.05)
    await switch.attach("user://10.0.2.0/24?name=net")
    with stopped(child_of(os.getpid())):
        for _ in range(3):
            (net,) = await switch.user_networks.nat()
            assert (net.age_s, net.guests) == (None, [])
        assert "vswitch_user_network_guests" not in await switch.metrics()
    monkeypatch.setattr(counters, "ANSWER_S", TIMEOUT_S)
    (net,) = await switch.user_networks.nat()
    assert net.age_s is not None, "late answers are nobody's"


@contextmanager
def stopped(process: int | None) -> Iterator[None]:
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_process_that_ends_answers_nobody_and_the_next_one_counts_anew(
    switch: VSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "ANSWER_S", 10 * TIMEOUT_S)  # nobody waits for one that is no more
    await switch.attach("user://10.0.2.0/24?name=net&host_access=yes")
    await used(switch)
    ages: list[float | None] = []

    async def look() -> None:
        (net,) = await switch.user_networks.nat()
        ages.append(net.age_s)

    process = child_of(os.getpid())
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        async with restarted(switch, signal.SIGKILL):
            pass
    assert ages == [None]
    (net,) = await switch.user_networks.nat()
    assert net.age_s is not None
    assert net.guests == []


@pytest.mark.parametrize(
    "words",
    [
        "for _ in range(30): say(['Counted', number, [['02:00:00:00:00:01', '', 0, []]] * 40, None])",
        "say(['Counted', number, [['evil', '', 0, []]], None])",
        "say(['Counted', number, [['02:00:00:00:00:01', chr(27), 0, []]], None])",
        "say(['Counted', number, [], [[-1], {}]])",
        "say(['Counted', number, [], [[1 << 70], {}]])",
        "say(['Counted', number, [], [[0, 0, 0, 0, {'x' * 99: 1}], {}]])",
    ],
)
async def test_one_that_counts_nonsense_is_replaced(
    switch: VSwitch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    pretend(monkeypatch, tmp_path, words)
    await switch.attach("user://10.0.2.0/24?name=net")
    (net,) = await switch.user_networks.nat()
    assert net.age_s is None
    said = "net: the process of this network has ended: it says what nobody understands; it is started again"
    await until(lambda: said in caplog.messages)


async def test_what_nobody_has_asked_or_knows_is_not_shown(
    switch: VSwitch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(
        monkeypatch,
        tmp_path,
        """
    say(['Counted', number - 1, [['02:00:00:00:00:01', '', 0, []]], [[9], {}]])
    say(['Counted', number, [], [[0, 0, 0, 0, {'evil': 7, 'short': 3}], {'evil': 1, 'dns': 2}]])
    say(['Counted', number, [], [[9], {}]])""",
    )
    await switch.attach("user://10.0.2.0/24?name=net")
    (net,) = await switch.user_networks.nat()
    assert (net.guests, net.others.out_frames) == ([], 0)
    assert net.others.drops == {"short": 3}
    assert net.served == {"dhcp": 0, "dns": 2, "tftp": 0}


def pretend(monkeypatch: pytest.MonkeyPatch, path: Path, words: str) -> None:
    """Another program is the network's, which says this when it is asked for what it counts."""
    (path / "pretender.py").write_text(PRETENDER + words + "\n")
    monkeypatch.setenv("PYTHONPATH", str(path))
    monkeypatch.setattr(child, "PROGRAM", "pretender")


PRETENDER = """
import json, socket, sys
words = socket.socket(fileno=int(sys.argv[2]))
def say(word):
    words.send(json.dumps(word).encode())
say(["ready", []])
while heard := words.recv(1 << 20):
    heard = json.loads(heard)
    if not isinstance(heard, list) or heard[:1] != ["count"]:
        continue
    number = heard[1]
    """
