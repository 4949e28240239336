"""Booted Linux guests on one switch: they find each other, move data, and one that hangs hurts nobody."""

import re
import tempfile

import pytest
import trio

from tests.e2e.guest import Guest, Nic, boot, guest_image
from tests.peers import Peer, check_balance
from vswitch import VSwitch
from vswitch.endpoints.guests import qemu

QEMU_VERSION = (7, 2)


@pytest.fixture(autouse=True, scope="module")
def machine_that_runs_guests() -> None:
    guest_image()


async def counted(guest: Guest) -> tuple[int, int]:
    """Frames that the guest's card has received and sent."""
    line = (await guest.run("grep eth0 /proc/net/dev")).stdout
    fields = line.split(":")[1].split()
    return int(fields[1]), int(fields[9])


async def test_two_guests_ping_and_run_iperf3_over_tcp_and_unix() -> None:
    """One guest by `socket,connect=` over TCP, one by `stream` over a unix socket; the counters agree with theirs."""
    with tempfile.TemporaryDirectory(prefix="vs-") as directory:
        async with VSwitch() as switch:
            tcp = await switch.attach("tcp://127.0.0.1:0", name="tcp")
            unix = await switch.attach(f"unix://{directory}/lan.sock", name="unix")
            netdev_a = (qemu.socket_netdev(tcp.config) or "").replace("id=net0,", "")
            netdev_b = (qemu.stream_netdev(unix.config, QEMU_VERSION) or "").replace("id=net0,", "")
            a, b = Guest("a", Nic(netdev_a, ip="10.0.0.1/24")), Guest("b", Nic(netdev_b, ip="10.0.0.2/24"))
            async with boot(a, b):
                ping = await a.run("ping -c 5 -i 0.1 10.0.0.2")
                assert ping.ok
                assert "5 packets received" in ping.stdout
                await b.run("iperf3 -s -D; until netstat -ltn | grep -q 5201; do usleep 10000; done")
                iperf = await a.run("iperf3 -c 10.0.0.2 -t 2")
                assert iperf.ok, iperf.stdout
                sent = re.search(r"([\d.]+) [KMG]bits/sec.*receiver", iperf.stdout)
                assert sent
                assert float(sent[1]) > 0

                a_rx, a_tx = await counted(a)
                b_rx, b_tx = await counted(b)
                ports = {port.endpoint: port for port in switch.ports()}
                assert (ports["tcp"].tx_frames, ports["tcp"].rx_frames) == (a_rx, a_tx)
                assert (ports["unix"].tx_frames, ports["unix"].rx_frames) == (b_rx, b_tx)
                macs = {entry.mac: entry.port for entry in await switch.macs()}
                assert macs == {a.nics[0].mac: "tcp.1", b.nics[0].mac: "unix.1"}
                check_balance(switch)


async def test_three_guests_on_one_listener_and_one_of_them_stopped() -> None:
    """A stopped guest reads nothing: its queue fills, and the others go on as before."""
    async with VSwitch() as switch:
        lan = await switch.attach("tcp://127.0.0.1:0", name="lan", queue="256KiB")
        netdev = (qemu.stream_netdev(lan.config, QEMU_VERSION) or "").replace("id=net0,", "")
        a, b, c = (Guest(name, Nic(netdev, ip=f"10.0.0.{at}/24")) for at, name in enumerate("abc", 1))
        async with boot(a, b, c), await Peer.plugged_into(switch, name="flooder") as flooder:
            for guest, address in ((a, "10.0.0.2"), (b, "10.0.0.3"), (c, "10.0.0.1")):
                assert (await guest.run(f"ping -c 1 {address}")).ok
            assert sorted(port.name for port in lan.ports) == ["lan.1", "lan.2", "lan.3"]

            await c.qmp("stop")
            stopped = {entry.mac: entry.port for entry in await switch.macs()}[c.nics[0].mac]
            destination = bytes.fromhex(c.nics[0].mac.replace(":", ""))
            burst = [destination + bytes.fromhex("52540000feed88b5") + bytes(1486)] * 100
            with trio.fail_after(30):
                while "queue_full" not in (drops := drops_of(switch, stopped)):
                    await flooder.send(*burst)
            assert set(drops) == {"queue_full"}

            assert "10 packets received" in (await a.run("ping -c 10 -i 0.1 10.0.0.2")).stdout
            await b.run("iperf3 -s -D; until netstat -ltn | grep -q 5201; do usleep 10000; done")
            assert (await a.run("iperf3 -c 10.0.0.2 -t 1")).ok
            assert [port.drops for port in lan.ports if port.name != stopped] == [{}, {}]

            await c.qmp("cont")
            assert (await c.run("ping -c 3 -i 0.1 10.0.0.1")).ok
            check_balance(switch)


def drops_of(switch: VSwitch, name: str) -> dict[str, int]:
    (port,) = (port for port in switch.ports() if port.name == name)
    return port.drops
