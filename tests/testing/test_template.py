"""Clones of a guest that has booted: they are like any booted guest, and share nothing that is to be each one's own."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from scapy.layers.inet import ICMP
from scapy.layers.l2 import ARP

from tests.e2e.guest import guest_image
from vswitch.endpoints.guests import qemu_program
from vswitch.testing import Guest, GuestImage, Lan, Nic, QemuError, running, template
from vswitch.testing.image_cache import MANIFEST
from vswitch.testing.machine import Machine
from vswitch.testing.template import PER_IMAGE_MAX, STATE, NoTemplateError, Template, find, key

CARDS = ["virtio-net-pci"]
# What is to be each guest's own.
OWN = """
for card in /sys/class/net/eth*; do cat $card/address; done
ip -o link show | grep -o 'permaddr [^ ]*'
cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | base64
head -c 16 /dev/random | base64
"""
# What all guests of a kind have in common; modules may load in another order.
COMMON = """
until grep -q up /sys/class/net/eth0/operstate; do usleep 10000; done
ls / /bin /dev /etc /sys/class/net
lsmod | sort | sed 's/0x.*//'
mount
cat /etc/passwd /etc/group /proc/cpuinfo
ip -o link show | sed 's/qdisc.*link/link/; s/[0-9a-f:]\\{17\\}//'
ps -o args >/run/ps
grep -v '^\\[' /run/ps
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> GuestImage:
    """The image in a place of its own, without templates."""
    directory = tmp_path_factory.mktemp("image") / "image"
    shutil.copytree(guest_image().kernel.parent, directory, ignore=shutil.ignore_patterns("templates"))
    return GuestImage(directory / "kernel", directory / "initramfs")


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The templates that are made."""
    made: list[Path] = []
    make = template._make

    async def counted(one: Template, *arguments: Any) -> None:
        made.append(one.directory)
        await make(one, *arguments)

    monkeypatch.setattr(template, "_make", counted)
    monkeypatch.setattr(template, "_unmakeable", set())
    return made


def words(text: str) -> set[str]:
    return set(text.split())


async def is_clone(guest: Guest) -> bool:
    return (await guest.run("grep vswitch.template /proc/cmdline")).ok


async def test_of_all_who_want_a_template_one_makes_it(own: GuestImage, anew: list[Path]) -> None:
    found: list[Template | None] = []

    async def want() -> None:
        found.append(await find(Machine(own), CARDS))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(want)
    assert len(anew) == 1
    assert [one.directory for one in found if one] == [anew[0]] * 3
    assert not list(anew[0].parent.glob("building-*"))


async def test_clones_share_nothing_that_is_their_own(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 2_000_000_000  # long after the template was made
    monkeypatch.setattr(running, "time", SimpleNamespace(time=lambda: now))
    cards = [Nic(), Nic(ip="10.1.0.1/24")]
    guests = [await lan.guest(name, nics=cards if name == "a" else [Nic(), Nic(ip="10.1.0.2/24")]) for name in "ab"]
    said = [(await guest.run(OWN)).stdout for guest in guests]
    for guest, text in zip(guests, said, strict=True):
        assert await is_clone(guest)
        assert text.split()[:2] == [link.mac for link in guest.links]
        assert (await guest.run("hostname")).stdout == f"{guest.name}\n"
        assert now <= int((await guest.run("date +%s")).stdout) < now + 1000
    assert len(words(said[0])) == len(said[0].split()) == 7
    assert not words(said[0]) & words(said[1])
    for address in (guests[1].ip, "10.1.0.2"):
        assert (await guests[0].run(f"ping -c 1 {address}")).ok


async def test_a_clone_sends_what_it_is_told_to_and_nothing_of_its_own_accord(lan: Lan) -> None:
    """Neither what the template's cards had to say is heard, nor that QEMU takes a clone for a guest that has moved."""
    async with lan.capture() as capture:
        a, b = await lan.boot("a", "b")
        await trio.sleep(0.5)  # QEMU's announcements come every 50 ms or more
        assert (await a.run(f"ping -c 1 {b.ip}")).ok
    said = [(packet.src, "ARP" if ARP in packet else "ICMP" if ICMP in packet else "?") for packet in capture.packets]
    request, reply = (a.mac, "ARP"), (b.mac, "ARP")
    assert said == [request, request, reply, reply, (a.mac, "ICMP"), (a.mac, "ICMP"), (b.mac, "ICMP"), (b.mac, "ICMP")]


async def test_a_clone_behaves_like_a_guest_that_has_booted(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = await lan.guest("clone", gateway="10.0.0.254")
    lan.cold = True
    booted = await lan.guest("booted", gateway="10.0.0.254")
    assert (await is_clone(clone), await is_clone(booted)) == (True, False)
    one, other = [(await guest.run(COMMON)).stdout.splitlines() for guest in (clone, booted)]
    own = re.compile("cpu MHz|bogomips|random|ps -o|mtime")
    assert [line for line in one if not own.search(line)] == [line for line in other if not own.search(line)]
    for guest, peer in ((clone, booted), (booted, clone)):
        assert "default via 10.0.0.254" in (await guest.run("ip route")).stdout
        assert (await guest.run(f"ping -c 1 {peer.name}")).ok
        up = float((await guest.run("cat /proc/uptime")).stdout.split()[0])
        await guest.run("sleep 0.2")
        assert 0.2 <= float((await guest.run("cat /proc/uptime")).stdout.split()[0]) - up < 5
    await booted.run("iperf3 -s -D")
    assert (await clone.run(f"iperf3 -c {booted.ip} -n 1M")).ok
    server = await lan.host("server")
    async with server.dhcp_server(["10.0.0.100"]):
        assert (await clone.run("udhcpc -i eth0 -n -q")).ok
    assert "10.0.0.100/24" in (await clone.run("ip addr show eth0")).stdout
    await clone.reset()
    assert await is_clone(clone) is False, "it boots as itself"
    assert (await clone.run("cat /sys/class/net/eth0/address; hostname")).stdout == f"{clone.mac}\nclone\n"
    assert (await clone.run(f"ping -c 1 {booted.ip}")).ok
    lan.cold = False
    async with clone.crash():
        pass
    assert await is_clone(clone)
    await clone.shutdown()
    assert "Power down" in clone.console


@pytest.mark.parametrize(
    "machine",
    [
        lambda image: Machine(image, arguments=["-device", "virtio-rng-pci"]),
        lambda image: Machine(image, append="quiet"),
        lambda image: Machine(GuestImage(Path("/boot/vmlinuz"), Path("/boot/initrd"))),
        lambda image: Machine(None),
    ],
    ids=["arguments", "kernel's words", "own image", "none"],
)
async def test_what_is_no_plain_tiny_guest_boots(own: GuestImage, machine: Callable[[GuestImage], Machine]) -> None:
    assert await find(machine(own), CARDS) is None


async def test_other_cards_boot(own: GuestImage) -> None:
    assert await find(Machine(own), ["virtio-net-pci", "e1000"]) is None


def test_each_kind_of_machine_has_its_own(own: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Machine(own)
    keys = [
        key(plain, CARDS),
        key(plain, CARDS * 2),
        key(plain, ["virtio-net-pci,mq=on"]),
        key(Machine(own, memory="256M"), CARDS),
        key(Machine(own, cpus=2), CARDS),
        key(Machine(own, accelerator="kvm"), CARDS),
    ]
    program = qemu_program.find()
    assert program is not None
    other = tmp_path / "qemu"
    shutil.copyfile(program, other)
    other.chmod(0o755)
    monkeypatch.setenv("VSWITCH_QEMU", str(other))
    keys.append(key(plain, CARDS))
    os.utime(other, (1, 1))  # the same program, updated
    keys.append(key(plain, CARDS))
    assert len(set(keys)) == len(keys)
    assert key(plain, CARDS) == keys[-1]


def kept(directory: Path, *, files: dict[str, bytes]) -> Template:
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / MANIFEST).write_text(json.dumps(template._manifest(directory)))
    return Template(directory)


def test_a_template_that_was_changed_is_not_whole(tmp_path: Path) -> None:
    files = {"memory": bytes(1000), STATE: b"state"}
    damages: list[Callable[[Template], object]] = [
        lambda one: os.truncate(one.directory / "memory", 999),
        lambda one: os.utime(one.state, (1, 1)),
        lambda one: one.state.unlink(),
        lambda one: (one.directory / MANIFEST).write_text("{"),
        lambda one: (one.directory / MANIFEST).unlink(),
    ]
    for number, damage in enumerate(damages):
        one = kept(tmp_path / str(number), files=files)
        assert one.is_whole()
        damage(one)
        assert not one.is_whole()


async def test_a_damaged_template_is_made_anew(
    own: GuestImage, anew: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """One that looks whole is found out when a clone does not come up."""
    found = await find(Machine(own), CARDS)
    assert found is not None
    before = found.state.stat()
    state = bytearray(found.state.read_bytes())
    state[len(state) // 2 :] = bytes(len(state) - len(state) // 2)
    found.state.write_bytes(state)
    os.utime(found.state, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found.is_whole()
    del anew[:]
    async with Lan() as lan:
        a = await lan.guest("a", image=own)
        assert not await is_clone(a)
        assert "guest a has booted: a template did not work, and is removed: " in caplog.text
        assert anew == []
        b = await lan.guest("b", image=own)
        assert await is_clone(b)
        assert anew == [found.directory]


async def test_a_template_that_goes_meanwhile_is_made_anew(
    own: GuestImage, anew: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = kept(own.kernel.parent / "templates" / "gone", files={"memory": b"", STATE: b""})

    async def find_it(*_: Any) -> Template:
        gone.remove()
        return gone

    async with Lan() as lan:
        with monkeypatch.context() as patched:
            patched.setattr(template, "find", find_it)
            assert not await is_clone(await lan.guest("a", image=own))
        assert "guest a has booted: a template did not work, and is removed: " in caplog.text
        assert await is_clone(await lan.guest("b", image=own))


async def test_a_kernel_that_has_random_numbers_before_it_is_a_clones_own_boots(
    own: GuestImage, anew: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(template, "SILENT", ("-object", "rng-builtin,id=silent"))
    monkeypatch.setattr(template, "IS_NOBODY", f"head -c 1 /dev/random >/dev/null; {template.IS_NOBODY}")
    machine = Machine(own, memory="200M")
    with pytest.raises(NoTemplateError, match=r"no template can be kept .*: its kernel has .*crng init done"):
        await find(machine, CARDS)
    assert await find(machine, CARDS) is None
    assert len(anew) == 1, "it is not tried again"


async def test_where_nothing_can_be_kept_guests_boot_and_the_first_says_so(
    own: GuestImage, tmp_path: Path, anew: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    for path in (own.kernel, own.initrd, own.kernel.parent / "wanted"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "templates").touch()
    async with Lan() as lan:
        image = GuestImage(tmp_path / "kernel", tmp_path / "initramfs")
        a = await lan.guest("a", image=image)
        assert not await is_clone(a)
        assert not await is_clone(await lan.guest("b", image=image))
    said = f"guest a has booted: no template can be kept in {tmp_path / 'templates'}: File exists"
    assert [message for message in caplog.messages if "guest" in message] == [said]


def test_the_oldest_templates_go(tmp_path: Path) -> None:
    for number in range(PER_IMAGE_MAX + 2):
        kept(tmp_path / str(number), files={"memory": b"", STATE: b""})
        os.utime(tmp_path / str(number), (number, number))
    (tmp_path / "x.lock").touch()
    template._remove_old(tmp_path)
    assert words(" ".join(os.listdir(tmp_path))) == {"x.lock", *map(str, range(2, PER_IMAGE_MAX + 2))}


async def test_a_word_that_is_wrong_is_no_fault_of_the_template(lan: Lan) -> None:
    with pytest.raises(QemuError, match=r"guest a: a clone cannot become itself: .*(RTNETLINK|unreachable)"):
        await lan.guest("a", gateway="192.0.2.1")
    assert await is_clone(await lan.guest("b"))
