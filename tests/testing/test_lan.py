"""A LAN of scapy hosts, in virtual time: addresses, expectations, faults, evidence."""

from pathlib import Path

import pytest
import trio
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from trio.testing import MockClock

from tests import captures
from vswitch import InputError
from vswitch.testing import ExpectationFailed, Kernel, Lan, Nic, ScapyHost


@pytest.fixture
def clock() -> MockClock:
    """Time passes at once when nothing else can happen."""
    return MockClock(autojump_threshold=0)


async def pair(lan: Lan) -> tuple[ScapyHost, ScapyHost]:
    return await lan.host("a"), await lan.host("b")


async def test_addresses_are_given_and_macs_come_from_names(clock: MockClock) -> None:
    async with Lan() as lan, Lan(network="10.7.0.0/16") as other:
        a, b = await pair(lan)
        fixed = await lan.host("c", ip="10.0.0.9")
        wide = await lan.host("d", ip="10.1.2.3/8")
        nowhere = await lan.host("e", ip="")
        again = await other.host("a")
        assert [host.ip for host in (a, b, fixed, wide, nowhere)] == [
            "10.0.0.1",
            "10.0.0.2",
            "10.0.0.9",
            "10.1.2.3",
            "",
        ]
        assert again.ip == "10.7.0.1"
        assert a.mac == again.mac != b.mac
        assert a.mac.startswith("52:54:00:")
        with pytest.raises(InputError, match="somebody else's"):
            await lan.host("f", ip="10.0.0.9")
        with pytest.raises(InputError, match="already"):
            await lan.host("a")
        with pytest.raises(InputError, match=r"no IPv4 address; write one like 10\.0\.0\.9"):
            await lan.host("g", ip="10.0.0")
        await lan.remove(fixed)
        assert (await lan.host("c", ip="10.0.0.9")).mac == fixed.mac


async def test_a_machine_that_cannot_be_leaves_nothing_behind(clock: MockClock) -> None:
    async with Lan() as lan:
        with pytest.raises(InputError, match=r"^a: unknown parameter 'vlna'"):
            await lan.host("a", vlna=10)
        with pytest.raises(InputError, match=r"^b-2: unknown parameter 'vlna'"):
            await lan.guest("b", nics=[Nic(), Nic(port={"vlna": 10})], image=Kernel("none"))
        nic = Nic(transport="vhost-user", port={"vlna": 10})
        with pytest.raises(InputError, match=r"^b: unknown parameter 'vlna'"):
            await lan.guest("b", nics=[nic], image=Kernel("none"))
        with pytest.raises(InputError, match="transport is 'vhost'; there are stream, vhost-user"):
            Nic(transport="vhost")
        with pytest.raises(InputError, match=r"^b: ip, vlan: of which card\? say it in nics"):
            await lan.guest("b", nics=[Nic()], ip="10.0.0.1", vlan=10, image=Kernel("none"))
        assert (lan.guests, lan.hosts, lan.switch.ports()) == ({}, {}, [])
        a, b = await pair(lan)
        assert (a.ip, b.ip) == ("10.0.0.1", "10.0.0.2")
        assert await a.ping(b.ip)
        assert (await lan.expect(lambda packet: packet[ICMP].type == 0))[IP].src == b.ip  # an ARP frame has no ICMP


async def test_what_has_passed_since_the_test_began_counts(clock: MockClock) -> None:
    async with Lan() as lan:
        a, b = await pair(lan)
        assert await a.ping(b.ip)
        await trio.sleep(1000)
        packet = await lan.expect(f"icmp and src host {a.ip}", within=0)
        assert (packet.sniffed_on, packet.direction, packet[IP].dst) == ("a", 1, b.ip)
        assert (await lan.expect("icmp", at=b, within=0)).sniffed_on == "b"
        assert (await lan.expect(lambda packet: ICMP in packet and packet[ICMP].type == 0))[IP].src == b.ip
        now = lan.now()
        with pytest.raises(ExpectationFailed, match="nothing passed at all"):
            await lan.expect("icmp", within=2, since=now)
        await lan.expect_none("icmp", since=now)
        with pytest.raises(ExpectationFailed, match=r"a frame was 'icmp':\n +a +in +Ether / IP / ICMP 10"):
            await lan.expect_none("icmp")


async def test_what_passes_within_the_time_counts_and_what_comes_later_does_not(clock: MockClock) -> None:
    async def later(packet: Packet) -> bool:
        await trio.lowlevel.checkpoint()
        return UDP in packet

    async with Lan() as lan, trio.open_nursery() as nursery:
        a, _ = await pair(lan)

        async def speak() -> None:
            await trio.sleep(1.5)
            await a.send(Ether(dst="ff:ff:ff:ff:ff:ff") / IP(dst="10.0.0.255") / UDP(sport=7, dport=9))

        nursery.start_soon(speak)
        with pytest.raises(ExpectationFailed, match=r"no frame was 'udp port 9' within 1 s"):
            await lan.expect("udp port 9", within=1)
        assert (await lan.expect(later, within=1))[UDP].dport == 9
        with pytest.raises(ExpectationFailed, match="what later wants within 0 s"):
            await lan.expect(later, within=0, since=lan.now())


async def test_a_wrong_filter_is_told_in_libpcaps_words() -> None:
    async with Lan() as lan:
        with pytest.raises(InputError, match="syntax error"):
            await lan.expect("icmp and")


async def test_a_capture_has_what_passed_while_it_ran(clock: MockClock) -> None:
    async with Lan() as lan:
        a, b = await pair(lan)
        await a.ping(b.ip)
        async with lan.capture("icmp", at=b) as captured:
            await a.ping(b.ip)
        await a.ping(b.ip)
        assert [(packet.direction, packet[ICMP].type) for packet in captured.packets] == [(2, 8), (1, 0)]
        async with lan.capture(lambda packet: ARP in packet) as none:
            await a.ping(b.ip)
        assert none.packets == []


async def test_between_islands_nothing_passes_whatever_the_vlans(clock: MockClock) -> None:
    async with Lan() as lan:
        a = await lan.host("a", vlan=10)
        b = await lan.host("b", trunk=[10, 20], native=10)
        c = await lan.host("c", vlan=10)
        assert await a.ping(b.ip)
        async with lan.partition([a], [b, "c"]):
            assert not await a.ping(b.ip)
            assert await b.ping(c.ip)
            assert (await lan.expect(lambda packet: packet.comments)).comments == [b"dropped: partition"]
        assert await a.ping(b.ip)


async def test_names_are_checked(clock: MockClock) -> None:
    async with Lan() as lan, Lan() as other:
        a, b = await pair(lan)
        stranger = await other.host("stranger")
        for name in ("typo", stranger):
            with pytest.raises(InputError, match=r"no port '(typo|stranger)'; there are a, b$"):
                lan.partition([a], [b, name])
            with pytest.raises(InputError, match="no port"):
                lan.isolate(name)
            with pytest.raises(InputError, match="no port"):
                await lan.expect("icmp", at=name)
            with pytest.raises(InputError, match="no port"):
                async with lan.capture(at=name):
                    pass
        await lan.remove(b)
        with pytest.raises(InputError, match=r"no port 'b'; there are a$"):
            lan.partition([a], [b])
        assert await lan.attach("tcp://127.0.0.1:0?name=lab")
        await lan.partition([a], ["lab"])


async def test_what_is_printed_names_machines(clock: MockClock) -> None:
    async with Lan() as lan:
        assert repr(lan) == "<Lan 10.0.0.0/24: empty>"
        a, b = await pair(lan)
        assert repr(a) == f"<ScapyHost a 10.0.0.1 {a.mac}>"
        assert repr(lan) == "<Lan 10.0.0.0/24: a 10.0.0.1, b 10.0.0.2>"
        assert repr(lan.partition([a], [b])) == "<Fault partition of a from b, not there>"
        assert repr(await lan.isolate(a)) == "<Fault isolation of a>"
        assert repr(lan.capture("icmp")) == "<Capture of 'icmp': 0 packets>"


async def test_an_isolated_machine_reaches_nobody_not_even_who_comes_later(clock: MockClock) -> None:
    async with Lan() as lan:
        a, b = await pair(lan)
        fault = await lan.isolate(a)
        c = await lan.host("c")
        assert not await c.ping(a.ip)
        assert await c.ping(b.ip)
        await fault.restore()
        await fault.restore()
        assert await c.ping(a.ip)


async def test_a_port_is_down_and_up_again(clock: MockClock) -> None:
    async with Lan() as lan:
        a, b = await pair(lan)
        async with lan.down(b):
            assert not await a.ping(b.ip)
        assert await a.ping(b.ip)
        with pytest.raises(InputError, match="no port 'nobody'"):
            await lan.down("nobody")


async def test_a_port_that_flaps_loses_some(clock: MockClock) -> None:
    async with Lan() as lan:
        a, b = await pair(lan)
        await a.ping(b.ip)
        async with lan.flap(b, down=1.0, up=1.0):
            await trio.sleep(0.5)
            seen = []
            for _ in range(6):
                seen.append(await a.ping(b.ip, timeout=0.1))
                await trio.sleep(1.0 if seen[-1] else 0.9)
        assert seen == [False, True] * 3
        assert await a.ping(b.ip)


async def test_partitions_add_up(clock: MockClock) -> None:
    async with Lan() as lan:
        a, b = await pair(lan)
        c = await lan.host("c")
        async with lan.partition([a], [b]), lan.partition([a, b], [c]):
            assert not await a.ping(b.ip)
            assert not await a.ping(c.ip)
        assert await a.ping(c.ip)


async def test_what_is_known_is_saved_when_it_has_ended_too(tmp_path: Path, clock: MockClock) -> None:
    async with Lan() as lan:
        a, b = await pair(lan)
        await a.ping(b.ip)
    file, report = await lan.save(tmp_path / "kept")
    assert file == tmp_path / "kept" / "lan.pcapng"
    read = captures.read(file)
    assert [interface.name for interface in read.ports] == ["a", "b"]
    assert len(read.packets) == 8
    assert report.read_text() == "\n", "nobody looked before it ended"


async def test_the_same_seed_gives_the_same_frames(clock: MockClock) -> None:
    async def run(seed: str) -> tuple[list[bytes], float]:
        async with Lan(seed=seed) as lan:
            a, b = await pair(lan)
            async with lan.capture() as captured:
                await a.ping(b.ip)
                async with b.dhcp_server("10.0.0.100-10.0.0.110"):
                    await a.send(
                        Ether(dst="ff:ff:ff:ff:ff:ff") / IP(dst="10.0.0.255") / UDP(sport=lan.random.randrange(1024))
                    )
                    await trio.sleep(1)
            return [bytes(packet) for packet in captured.packets], lan.random.random()

    one, same, other = [await run(seed) for seed in ("one", "one", "other")]
    assert one == same != other


async def test_a_bodys_own_error_is_not_put_in_a_group() -> None:
    async def fail() -> None:
        async with Lan() as lan:
            await lan.host("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
