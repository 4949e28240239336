"""`qemu-args`, `libvirt-xml`: the line or element for a guest, and addresses that no two guests share."""

import fcntl
import re
import shlex
import socket
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.program import COMMAND_TIMEOUT_S, PROGRAM, Home, connect, is_one_line
from tests.e2e.test_qemu_datagrams import free_group
from tests.endpoints.user_guest import need_libslirp
from tests.frames import BROADCAST, frame, framed
from tests.waiting import until
from vswitch import InputError, VSwitch
from vswitch.endpoints.guests import qemu
from vswitch.ports.policy import Policy, read_mac
from vswitch.testing import Lan

TCP = "tcp://127.0.0.1:1234"
COMMANDS = ["qemu-args", "libvirt-xml"]
MAC = re.compile("52:54:00(:[0-9a-f]{2}){3}")


def printed(home: Home, *arguments: str) -> str:
    done = home.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def mac(text: str) -> str:
    """The one address in a text."""
    found = {match[0] for match in MAC.finditer(text)}
    assert len(found) == 1, text
    return found.pop()


def refused(home: Home, *arguments: str) -> tuple[int, str]:
    """The exit code and the one line of an error."""
    done = home.run(*arguments)
    assert done.stdout == ""
    assert is_one_line(done.stderr)
    return done.returncode, done.stderr


# Named guests


def test_a_named_guest_has_the_same_address_everywhere(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0", "unix://lan.sock?name=lab", "--name", "s") as serving:
        texts = [
            printed(home, command, target, "--guest", "web")
            for command in COMMANDS
            for target in (TCP, serving.urls["tcp1"], "tcp1", "lab", "lab.7", "vde:///run/v")
        ]
    assert {mac(text) for text in texts} == {qemu.named_guest("web").mac}
    assert mac(printed(home, "qemu-args", TCP, "--guest", "Web")) != qemu.named_guest("web").mac


def test_a_named_guest_of_a_url_needs_nothing_and_leaves_nothing(home: Home) -> None:
    line = printed(home, "qemu-args", TCP, "--guest", "web")
    assert line == (
        "-netdev stream,id=net0,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port=1234"
        f" -device virtio-net-pci,netdev=net0,mac={qemu.named_guest('web').mac}\n"
    )
    assert not home.directory.exists()


# A guest that shares its memory


def test_a_vhost_user_guest_is_told_to_share_its_memory_and_a_person_what_to_change(home: Home) -> None:
    done = home.run("qemu-args", "vhost-user:///run/lan.vhost", "--guest", "web", "--qemu-version", "9.2")
    assert done.returncode == 0
    assert done.stdout == (
        "-m 1G -object memory-backend-memfd,id=ram,share=on,size=1G -machine memory-backend=ram"
        " -chardev socket,id=vhost-net0,path=/run/lan.vhost,reconnect-ms=1000"
        " -netdev vhost-user,id=net0,chardev=vhost-net0"
        f" -device virtio-net-pci,netdev=net0,mac={qemu.named_guest('web').mac}\n"
    )
    assert done.stderr == "# -m and size= are both the guest's memory: change 1G in both places\n"


def test_serve_prints_the_same_for_each_of_two_guests(home: Home) -> None:
    with home.serve("vhost-user://lan.vhost") as serving:
        lines = [line.strip() for line in serving.lines]
        assert "-m and size= are both the guest's memory: change 1G in both places" in lines
        whole = [line for line in lines if line.startswith("-m 1G -object memory-backend-memfd,")]
        assert len({mac(line) for line in whole}) == 2
        assert all(f"path={home.root}/lan.vhost," in line for line in whole)


# Guests without a name


def test_no_two_guests_get_one_address_without_a_switch(home: Home) -> None:
    texts = [printed(home, command, TCP) for command in COMMANDS * 2]
    assert len({mac(text) for text in texts}) == 4


def test_nor_do_two_that_ask_at_the_same_time(home: Home) -> None:
    home.directory.mkdir(mode=0o700)
    command = [*PROGRAM, "qemu-args", TCP]
    with (home.directory / "last-mac").open("w") as last:
        fcntl.flock(last, fcntl.LOCK_EX)
        with subprocess.Popen(command, env=home.env, cwd=home.root, stdout=subprocess.PIPE, text=True) as asking:
            waits = re.compile(rf"-> FLOCK .* {asking.pid} ")
            until(lambda: waits.search(Path("/proc/locks").read_text()) or asking.poll() is not None, "it waits")
            last.write("0000ff")
            last.flush()
            fcntl.flock(last, fcntl.LOCK_UN)
            assert mac(asking.communicate(timeout=COMMAND_TIMEOUT_S)[0]) == "52:54:00:00:01:00"


@pytest.mark.parametrize(("last", "following"), [("ffffff", "00:00:00"), ("0000ff", "00:01:00")])
def test_addresses_go_on_after_the_last_one(home: Home, last: str, following: str) -> None:
    home.directory.mkdir(mode=0o700)
    (home.directory / "last-mac").write_text(last)
    assert mac(printed(home, "qemu-args", TCP)) == f"52:54:00:{following}"


@pytest.mark.parametrize("content", ["", "x", "123456789", "\0"])
def test_a_spoilt_memory_of_the_last_address_is_replaced(home: Home, content: str) -> None:
    home.directory.mkdir(mode=0o700)
    (home.directory / "last-mac").write_text(content)
    first, second = (mac(printed(home, "qemu-args", TCP)) for _ in range(2))
    assert int(second[9:].replace(":", ""), 16) == (int(first[9:].replace(":", ""), 16) + 1) % 2**24


def test_a_memory_of_the_last_address_that_cannot_be_is_one_line(home: Home) -> None:
    (home.directory / "last-mac").mkdir(parents=True)
    code, said = refused(home, "qemu-args", TCP)
    assert code == 1
    assert "--guest" in said


def test_no_address_is_given_twice_by_a_switch(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0", "unix://lan.sock?name=lab") as serving:
        url = serving.urls["tcp1"]
        before = {mac(line) for line in serving.lines if "-netdev" in line}
        assert len(before) == 4
        targets = ["tcp1", url, "tcp1.1", "lab", "unix://lan.sock", f"unix://{home.root}/lan.sock", "lab"]
        given = [mac(printed(home, COMMANDS[at % 2], target)) for at, target in enumerate(targets)]
        assert len(before | set(given)) == 4 + len(targets)
        assert not (home.directory / "last-mac").exists()
        # Numbered on from the lines that serve printed.
        assert given[0] == qemu.guest_mac("default", "tcp1", "3")


def test_an_address_that_a_station_has_is_not_given_to_another(home: Home) -> None:
    taken = qemu.guest_mac("default", "unix1", "3")
    with home.serve("unix://lan.sock"), connect(f"unix://{home.root}/lan.sock") as guest:
        guest.sendall(framed([frame(BROADCAST, int(taken.replace(":", ""), 16))]))
        until(lambda: home.get("macs"), "the station is learned")
        assert mac(printed(home, "qemu-args", "unix1")) == qemu.guest_mac("default", "unix1", "4")


# What the port's policy says

A, B, C = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_only_address_that_may_send_is_printed_again_and_again(home: Home, command: str) -> None:
    for policy in (f"allow_mac={A}", f"single&static={A}", f"single&static={A}&locked"):
        assert [mac(printed(home, command, f"unix://a?{policy}")) for _ in range(2)] == [A, A]
    assert not home.directory.exists()


def test_several_that_may_send_are_printed_in_turn_without_a_switch(home: Home) -> None:
    url = f"unix://a?allow_mac={A},{B}"
    assert [mac(printed(home, COMMANDS[at % 2], url)) for at in range(3)] == [A, B, A]
    assert mac(printed(home, "qemu-args", f"unix://b?allow_mac={C},{A}")) == C
    (home.directory / "named-macs").write_bytes(b"\xff\0 x\n")
    assert mac(printed(home, "qemu-args", url)) == A


def test_a_running_endpoint_gives_those_of_its_own_policy_in_turn(home: Home) -> None:
    with home.serve(f"unix://lan.sock?name=lab&allow_mac={A},{B},{C}") as serving:
        assert [mac(line) for line in serving.lines if "-netdev" in line] == [A, B]
        with connect(f"unix://{home.root}/lan.sock") as guest:
            guest.sendall(framed([frame(BROADCAST, int(A.replace(":", ""), 16))]))
            until(lambda: home.get("macs"), "the station is learned")
            # C was not printed yet; A, which was longest ago, is in use.
            given = [mac(printed(home, "qemu-args", target)) for target in ("lab", "lab.1", "unix://lan.sock")]
            assert given == [C, B, C]
        until(lambda: not home.get("macs"), "the station is forgotten")
        assert mac(printed(home, "libvirt-xml", "unix://lan.sock?vlan=7")) == A


def test_stations_that_are_always_there_are_printed_though_they_are_known(home: Home) -> None:
    with home.serve(f"unix://g.sock?single&name=vm&static={A},{B}&locked", f"unix://h.sock?allow_mac={A},{C}"):
        assert [mac(printed(home, "qemu-args", "vm")) for _ in range(2)] == [B, A]
        # A is behind the other port for ever.
        assert [mac(printed(home, "qemu-args", "unix1")) for _ in range(2)] == [C, C]


async def test_a_group_has_other_guests_than_its_static_ones() -> None:
    async with VSwitch() as switch:
        for name, policy in (("open", f"static={A}"), ("closed", f"static={B}&locked")):
            await switch.attach(f"mcast://{free_group()}?name={name}&{policy}")
        assert [await switch.stations.next_guest("open") for _ in range(2)] == [
            A,
            qemu.guest_mac("default", "open", "1"),
        ]
        assert [await switch.stations.next_guest("closed") for _ in range(2)] == [B, B]


async def test_the_policy_is_the_one_that_the_port_has_now(tmp_path: Path) -> None:
    async with VSwitch() as switch:
        await switch.attach(f"unix://{tmp_path}/a?single&name=vm&vlan=10&allow_mac={A}")
        switch.policies.set("vm", Policy(trunk=(20,), allow_mac=(read_mac(B),)))
        assert [endpoint.url for endpoint in switch.endpoints()] == [
            f"unix://{tmp_path}/a?single=yes&trunk=20&allow_mac={B}"
        ]
        assert await switch.stations.next_guest("vm") == B


async def test_a_machine_of_a_test_has_an_address_that_its_port_lets_in() -> None:
    async with Lan() as lan:
        hosts = [await lan.host(name, allow_mac=[A, B]) for name in "ab"] + [await lan.host("c", static=C)]
        assert [host.mac for host in hosts] == [A, B, C]
        with pytest.raises(InputError, match=f"^d: the port drops what comes from {B}; add allow_mac={B}, or leave"):
            await lan.host("d", mac=B, allow_mac=A)
        with pytest.raises(InputError, match=r"^d: allow_mac: 'x' is not a MAC address"):
            await lan.host("d", allow_mac="x")
        assert (await lan.host("d", mac=B, allow_mac=[A, B])).ip == "10.0.0.4"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_named_guest_that_the_port_refuses_is_one_line_that_says_what_would_be_right(
    home: Home, command: str
) -> None:
    web = qemu.named_guest("web").mac
    for policy, more in (
        (f"allow_mac={A},{B}", f"add allow_mac={web} to"),
        (f"single&static={A},{B}&locked", f"add static={web} to"),
        (f"single&static={A},{B}&locked&allow_mac={A},{B}", f"add allow_mac={web} and static={web} to"),
    ):
        code, said = refused(home, command, f"unix://a?{policy}", "--guest", "web")
        assert code == 2
        assert said.startswith(f"vswitch: unix://a?{policy}: the port drops what comes from {web}")
        assert f"allowed are {A}, {B}: leave --guest out, or {more} the endpoint" in said
    for policy in (f"allow_mac={A},{web}", f"single&static={A}", "locked", "mirror_of=a"):
        assert mac(home.run(command, f"unix://a?{policy}", "--guest", "web").stdout) == web


def test_a_named_guest_meets_the_policy_of_the_endpoint_that_runs(home: Home) -> None:
    with home.serve(f"unix://lan.sock?name=lab&allow_mac={A}"):
        for target in ("lab", "lab.1", "unix://lan.sock", f"unix://lan.sock?allow_mac={qemu.named_guest('web').mac}"):
            code, said = refused(home, "qemu-args", target, "--guest", "web")
            assert code == 2
            assert f"allowed are {A}: " in said


def test_what_is_said_of_the_port_is_kept_out_of_the_command_line(home: Home) -> None:
    with home.serve("unix://lan.sock?name=lab&vlan=10&max_frame=1400"):
        for target in ("lab", "unix://lan.sock"):
            done = home.run("qemu-args", target, "--guest", "web")
            assert done.returncode == 0
            assert done.stdout.endswith(f"mac={qemu.named_guest('web').mac},host_mtu=1386\n")
            assert len(shlex.split(done.stdout)) == 4
            assert [line[:12] for line in done.stderr.splitlines()] == ["# in VLAN 10", "# max_frame="]
            assert "<!-- in VLAN 10: " in printed(home, "libvirt-xml", target, "--guest", "web")


def test_guests_of_a_user_network_have_its_mtu(home: Home) -> None:
    need_libslirp()
    with home.serve("unix://lan.sock?name=lab", "user://10.0.2.0/24?mtu=9000") as serving:
        lines = [line for line in serving.lines if "-device" in line]
        assert lines
        assert all(line.endswith(",host_mtu=9000") for line in lines)
        assert printed(home, "qemu-args", "lab").strip().endswith(",host_mtu=9000")
        assert "host_mtu=9000" in printed(home, "libvirt-xml", "lab")


# What is plugged into


def test_a_port_is_its_endpoints_line(home: Home) -> None:
    with home.serve("unix://lan.sock?name=lab", "unix://g.sock?connect&name=vm.2", "--name", "s"):
        lab, vm = (
            shlex.split(printed(home, "qemu-args", name, "--guest", "x", "--name", "s"))[1] for name in ("lab", "vm.2")
        )
        assert lab == f"stream,id=net0,server=off,addr.type=unix,addr.path={home.root}/lan.sock"
        assert vm == f"stream,id=net0,server=on,addr.type=unix,addr.path={home.root}/g.sock"


def test_with_several_switches_the_url_finds_its_own(home: Home) -> None:
    with home.serve("unix://a.sock", "--name", "a"), home.serve("unix://b.sock", "--name", "b"):
        assert mac(printed(home, "qemu-args", "unix://b.sock")) == qemu.guest_mac("b", "unix1", "3")
        assert mac(printed(home, "qemu-args", "unix1", "--name", "a")) == qemu.guest_mac("a", "unix1", "3")
        code, said = refused(home, "qemu-args", "unix1")
        assert code == 1
        assert "--name" in said
        code, said = refused(home, "qemu-args", "unix://b.sock", "--name", "a")
        assert code == 1
        assert "a.sock" in said


def test_serve_says_what_plugs_in_where_it_has_no_line(home: Home) -> None:
    here, there = socket.socketpair()
    with here, there, home.serve(f"fd://{there.fileno()}", pass_fds=[there.fileno()]) as serving:
        assert "socket,id=net0,fd=N" in serving.lines[1]
        assert serving.lines[2:] == ["ready"]


# Which QEMU


@pytest.mark.parametrize(
    ("version", "start"),
    [
        ("6.2", "socket,"),
        ("7.2", "stream,id=net0,server=off,addr."),
        ("7.2.22", "stream,id=net0,server=off,addr."),
        ("8.0", "stream,id=net0,server=off,reconnect=1,"),
        ("9.2", "stream,id=net0,server=off,reconnect-ms=1000,"),
        ("10.0.2", "stream,id=net0,server=off,reconnect-ms=1000,"),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_the_line_is_for_the_qemu_that_is_said_or_found(home: Home, version: str, start: str, told: bool) -> None:
    home.install_qemu("5.0" if told else version)
    options = ["--qemu-version", version] if told else []
    assert shlex.split(printed(home, "qemu-args", TCP, *options))[1].startswith(start)


def test_without_a_qemu_the_line_is_for_a_usual_one(home: Home) -> None:
    assert shlex.split(printed(home, "qemu-args", TCP))[1].startswith("stream,id=net0,server=off,addr.")


def test_libvirts_arguments_are_for_that_qemu_too(home: Home) -> None:
    text = printed(home, "libvirt-xml", "unix:///a", "--qemu-version", "9.2")
    assert "reconnect-ms=1000" in text


# XML


def test_an_element_is_printed_with_a_comment(home: Home) -> None:
    text = printed(home, "libvirt-xml", TCP, "--guest", "web")
    found = ElementTree.fromstring(f"<x>{text}</x>")
    assert [child.tag for child in found] == ["interface"]
    assert text.startswith("<!-- ")


# Errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "URL|PORT"),
        (["nonsense://x"], "unknown kind"),
        (["tcp://127.0.0.1"], "1234"),
        (["tcp://127.0.0.1:0"], "port 0"),
        (["a b"], "cannot be a name"),
        ([""], "cannot be a name"),
        ([TCP, "--guest", ""], "guest's name"),
        ([TCP, "--guest", "a\nb"], "guest's name"),
        ([TCP, "--guest", "\x1b[31m"], "guest's name"),
        ([TCP, "--name", "a b"], "cannot be a name"),
        (["fd://3"], "descriptor"),
        (["vde:///run/v?connect"], "VDE switch"),
        (["udp://[::1]:5"], "IPv4"),
        (["unix:///a", "--qemu-version", "6.2"], "7.2 or newer"),
        *(
            ([TCP, "--qemu-version", text], "7.2")
            for text in ("", "x", "9", "9.", ".2", "9.2x", "-1.2", "9.2.", "٩.٢", "9 .2")
        ),
    ],
)
def test_what_is_written_wrongly_is_one_line(home: Home, arguments: list[str], said: str) -> None:
    code, line = refused(home, COMMANDS[len(said) % 2], *arguments)
    assert code == 2
    assert said in line


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_there_is_one_line(home: Home, command: str) -> None:
    code, said = refused(home, command, "lab")
    assert code == 1
    assert "no switch is running" in said
    with home.serve("unix://lan.sock"):
        for target in ("lab", "unix1x", "unix1.x", "unix1.", "1", "unix2.1"):
            code, said = refused(home, command, target)
            assert code == 1
            assert "unix1" in said


def test_both_commands_are_offered(home: Home) -> None:
    shown = printed(home, "--help")
    for command in COMMANDS:
        assert command in shown
        assert "--guest" in printed(home, command, "--help")
