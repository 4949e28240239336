"""`vswitch trace`, and how a person writes a frame."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.program import Home, connect
from tests.frames import BROADCAST, frame, framed, mac
from tests.waiting import until
from vswitch.cli.looking import frame_argument
from vswitch.errors import InputError

ONE, TWO = "52:54:00:00:00:01", "52:54:00:00:00:02"
ARP = "0001080006040001" + "525400000001" + "0a000001" + "000000000000" + "0a000002"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("ffffffffffff525400000001 0806", "ffffffffffff5254000000010806"),
        ("0xff:ff:ff", "ffffff"),
        (f"{ONE} > {TWO} 0x1234", "525400000002525400000001" + "1234" + "00" * 46),
        (f"{ONE}>broadcast arp 10.0.0.1 10.0.0.2", "ffffffffffff525400000001" + "0806" + ARP + "00" * 18),
        (f"{ONE} > {TWO} vlan 10 ip", "525400000002525400000001" + "8100000a" + "0800" + "00" * 42),
        (f"{ONE} > {TWO} s-vlan 10 vlan 20 ip6 length 100", "525400000002525400000001" + "88a8000a81000014" + "86dd"),
    ],
)
def test_a_frame_may_be_written_in_hex_and_in_words(text: str, data: str) -> None:
    assert frame_argument.read(text).hex().startswith(data)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("xyz", "'xyz' is no frame; write hex"),
        (f"> {TWO}", "does not start with SOURCE > DESTINATION"),
        (f"{ONE} > nobody", "nobody"),
        (f"{ONE} > {TWO} appletalk", "'appletalk' is no kind of frame; there are arp, ip, ip6, lldp and numbers"),
        (f"{ONE} > {TWO} vlan 4097 arp", "'4097' is not a number from 0 to 4095"),
        (f"{ONE} > {TWO} ip from here", "'from here' is left over"),
        (f"{ONE} > {TWO} arp 10.0.0", "arp: "),
        (f"{ONE} > {TWO} arp length 20", "length 20 is too short; what is in it takes 42 bytes"),
    ],
)
def test_what_is_written_wrongly_is_said(text: str, why: str) -> None:
    with pytest.raises(InputError) as error:
        frame_argument.read(text)
    assert why in str(error.value)


@given(st.text(max_size=30) | st.builds(f"{ONE} > {TWO} {{}}".format, st.text(max_size=20)))
def test_any_text_is_a_frame_or_an_error(text: str) -> None:
    if text.startswith("@"):
        return
    with suppress(InputError):
        assert isinstance(frame_argument.read(text), bytes)


def pcap(order: str, *frames: bytes) -> bytes:
    magic = bytes.fromhex("a1b2c3d4")
    head = (magic if order == "big" else magic[::-1]) + bytes(16) + (1).to_bytes(4, order)  # type: ignore[arg-type]
    records = [bytes(8) + len(it).to_bytes(4, order) * 2 + it for it in frames]  # type: ignore[arg-type]
    return head + b"".join(records)


def pcapng(order: str, *frames: bytes) -> bytes:
    def number(value: int) -> bytes:
        return value.to_bytes(4, order)  # type: ignore[arg-type]

    section = b"\n\r\r\n" + number(28) + number(0x1A2B3C4D) + bytes(12) + number(28)
    packets = []
    for it in frames:
        padded = it + bytes(-len(it) % 4)
        packets.append(number(6) + number(32 + len(padded)) + bytes(12) + number(len(it)) * 2 + padded)
        packets[-1] += number(32 + len(padded))
    return section + b"".join(packets)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("written", [pcap, pcapng])
def test_a_frame_may_be_one_of_a_capture_file(tmp_path: Path, written: object, order: str) -> None:
    assert callable(written)
    file = tmp_path / "lan.pcap"
    file.write_bytes(written(order, frame(BROADCAST, mac(1)), frame(BROADCAST, mac(2), 61)))
    assert frame_argument.read(f"@{file}") == frame(BROADCAST, mac(1))
    assert frame_argument.read(f"@{file}:2") == frame(BROADCAST, mac(2), 61)
    with pytest.raises(InputError, match="there is no frame 3; it has 2"):
        frame_argument.read(f"@{file}:3")


def test_what_is_no_whole_ethernet_frame_is_refused(tmp_path: Path) -> None:
    whole = pcap("little", frame(BROADCAST, mac(1)))
    (tmp_path / "raw.pcap").write_bytes(whole[:20] + (101).to_bytes(4, "little") + whole[24:])
    (tmp_path / "cut.pcap").write_bytes(whole[:36] + (1500).to_bytes(4, "little") + whole[40:])
    for name, why in (
        ("raw", r"not an Ethernet frame \(link type 101\)"),
        ("cut", "it had 1,500 bytes, the file has 60"),
    ):
        with pytest.raises(InputError, match=why):
            frame_argument.read(f"@{tmp_path}/{name}.pcap")


@given(st.binary(max_size=100), st.sampled_from([b"", b"\n\r\r\n", b"\xd4\xc3\xb2\xa1"]))
def test_any_file_is_an_error_or_has_frames(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.pcap"
    file.write_bytes(magic + data)
    with suppress(InputError):
        assert isinstance(frame_argument.read(f"@{file}"), bytes)


def test_what_a_switch_would_do_is_said(home: Home) -> None:
    with home.serve(f"unix://{home.root}/lan.sock?name=lab&vlan=10", f"unix://{home.root}/db.sock?vlan=20") as serving:
        lab = serving.urls["lab"]
        with connect(lab) as one, connect(lab) as two:
            until(lambda: len(home.get("ports")) == 2, "both are plugged in")
            one.sendall(framed([frame(BROADCAST, mac(1))]))
            assert two.recv(100)
            done = home.run("trace", "lab.2", f"{TWO} > {ONE} arp 10.0.0.2 10.0.0.1")
            assert (done.returncode, done.stderr) == (0, "")
            first, *steps, last = done.stdout.splitlines()
            assert first == f"{TWO} > {ONE}  ARP who has 10.0.0.1? tell 10.0.0.2"
            assert [step.split()[0] for step in steps] == [
                *("port", "vlan", "addresses", "policy", "learn", "look_up", "egress")
            ]
            assert last == "forwarded to lab.1"
            assert home.run("trace", "lab.2", f"{TWO} > {ONE} vlan 20").stdout.splitlines()[-1] == "dropped: vlan"
            found = home.ask("trace", "lab.2", f"{TWO} > {ONE}")
            assert (found["forwarded"], [it["port"] for it in found["egress"]]) == (True, ["lab.1"])
            assert [port["rx_frames"] for port in home.get("ports")] == [1, 0]
            done = home.run("trace", "lab.3", f"{TWO} > {ONE}")
            assert (done.returncode, done.stderr) == (
                2,
                "vswitch: there is no port 'lab.3'; there are lab.1, lab.2\n",
            )
