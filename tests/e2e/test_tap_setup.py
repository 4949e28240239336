"""tap:// with all that may be asked of its interface, in network namespaces: by this machine's kernel and programs."""

import ctypes
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.program import Home
from tests.e2e.test_tap import persistent
from tests.hosts import Host
from tests.namespaces import ip, ip_inside, needed_for_tap, own_network
from tests.needs import require
from tests.peers import Peer, until
from vswitch import interfaces
from vswitch.endpoints.interface import helper, netlink, setting
from vswitch.endpoints.interface.options import InterfaceOptions
from vswitch.endpoints.tap import interface_of, is_tap
from vswitch.endpoints.url import parse
from vswitch.errors import RefusedError

NOBODY = 65534


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="vs-") as path:
        yield Home(Path(path))


def interface(pid: int, name: str) -> dict[str, Any]:
    """What ip says of one in a process's namespace; nothing if it is not there."""
    words = ["nsenter", "--target", str(pid), "--net", "ip", "-json", "address", "show", "dev", name]
    done = subprocess.run(words, capture_output=True, timeout=20)
    return json.loads(done.stdout)[0] if done.returncode == 0 else {}


def addresses(pid: int, name: str) -> set[str]:
    """Without those that the system makes itself."""
    found = interface(pid, name).get("addr_info", [])
    return {f"{each['local']}/{each['prefixlen']}" for each in found if each["scope"] == "global"}


BRIDGE = "ip link add br0 type bridge; ip address add 10.0.0.7/24 dev br0; ip link set br0 up"


def on_socket(home: Home) -> str:
    return f"unix://{home.root}/lan.sock"


async def ping(home: Home, address: str, payload: bytes = b"ping") -> None:
    """A host at 10.0.0.1, at another port of the switch, has its answer."""
    async with await Peer.connected_to(on_socket(home)) as wire, trio.open_nursery() as nursery:
        host = Host(wire, "10.0.0.1", 1)
        nursery.start_soon(host.run)
        await host.ping(address, payload=payload)
        nursery.cancel_scope.cancel()


async def test_an_interface_is_as_its_url_says_also_when_it_is_made_again(home: Home) -> None:
    asked = "tap://lab0?ip=10.0.0.7/24,fd00::7/64&mtu=9000&mac=52:54:00:00:00:07"
    with home.serve(asked, on_socket(home), under=[needed_for_tap(), "--net"]) as serving:
        pid = serving.pid
        for _ in range(2):
            await ping(home, "10.0.0.7", bytes(8000))
            found = interface(pid, "lab0")
            assert (found["address"], found["mtu"]) == ("52:54:00:00:00:07", 9000)
            assert addresses(pid, "lab0") == {"10.0.0.7/24", "fd00::7/64"}
            assert ip_inside(pid, "link delete lab0")
            await until(lambda: "UP" in interface(pid, "lab0").get("flags", []))
        assert home.run("detach", "tap1").returncode == 0
        assert interface(pid, "lab0") == {}


def test_one_that_we_make_has_a_mac_address_of_its_own_that_lasts(home: Home) -> None:
    with home.serve("tap://lab0", "tap://lab1", under=persistent(home, "")) as serving:
        found = [interface(serving.pid, f"lab{number}") for number in range(2)]
        assert all("UP" in each["flags"] for each in found)
        macs = [each["address"] for each in found]
        assert macs == [setting.own_mac("default", f"tap{number}") for number in (1, 2)]
        assert home.run("detach", "tap1").returncode == 0
        assert home.run("attach", "tap://lab7").returncode == 0
        assert interface(serving.pid, "lab7")["address"] == macs[0]


def test_no_two_machines_switches_or_endpoints_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting, "MACHINE_ID", str(tmp_path / "id"))
    macs = []
    for machine in ("", "a" * 32, "b" * 32):
        (tmp_path / "id").write_text(f"{machine}\n")
        macs += [setting.own_mac(switch, name) for switch in ("a", "b") for name in ("a", "b")]
    assert len(set(macs)) == 12
    assert {mac[:9] for mac in macs} == {"fe:54:00:"}
    (tmp_path / "id").unlink()
    assert setting.own_mac("a", "a") == macs[0]


def test_one_that_was_there_stays_and_keeps_what_was_asked(home: Home) -> None:
    made = (
        "ip tuntap add lab0 mode tap; ip link set lab0 address 52:54:00:00:00:09; ip address add 10.0.0.7/24 dev lab0"
    )
    asked = "tap://lab0?mtu=1400&ip=10.0.0.7/24,10.0.1.7/24"
    with home.serve(asked, under=persistent(home, made)) as serving:
        assert home.run("detach", "tap1").returncode == 0
        found = interface(serving.pid, "lab0")
        assert (found["address"], found["mtu"]) == ("52:54:00:00:00:09", 1400)
        assert addresses(serving.pid, "lab0") == {"10.0.0.7/24", "10.0.1.7/24"}


async def test_a_bridge_of_this_machine_has_it_as_a_port(home: Home) -> None:
    with home.serve("tap://lab0?master=br0", on_socket(home), under=persistent(home, BRIDGE)) as serving:
        assert interface(serving.pid, "lab0")["master"] == "br0"
        await ping(home, "10.0.0.7")
        assert serving.stop() == 0


def debians_script() -> Path:
    script = Path("/etc/qemu-ifup")
    there = script.exists() and "ip route" in script.read_text()
    require(there, "Debian's /etc/qemu-ifup not found: install the package qemu-system-common")
    return script


async def test_debians_script_for_qemu_makes_it_a_port_of_the_bridge_of_the_default_route(home: Home) -> None:
    script = debians_script()
    (home.root / "ifup").write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin exec {script} $1\n")
    (home.root / "ifup").chmod(0o755)
    under = persistent(home, f"{BRIDGE}; ip route add default via 10.0.0.1", "mount -t sysfs sysfs /sys")
    asked = f"tap://lab0?ifup={home.root}/ifup"
    with home.serve(asked, on_socket(home), under=[under[0], "--mount", *under[1:]]) as serving:
        assert interface(serving.pid, "lab0")["master"] == "br0"
        await ping(home, "10.0.0.7")
        assert serving.stop() == 0


async def test_scripts_are_called_with_the_interface_alone(home: Home) -> None:
    calls = home.root / "calls"
    script = home.root / "script"
    script.write_text(f'#!/bin/sh\nread -r flags </sys/class/net/$1/flags\necho "$# $1 $flags" >>{calls}\n')
    script.chmod(0o755)
    under = persistent(home, "mount -t sysfs sysfs /sys")
    asked = f"tap://lab0?ifup={script}&ifdown=script"
    with home.serve(asked, under=[under[0], "--mount", *under[1:]]) as serving:
        assert calls.read_text() == "1 lab0 0x1002\n"  # not up yet
        assert "UP" in interface(serving.pid, "lab0")["flags"]
        assert serving.stop() == 0
    assert calls.read_text() == "1 lab0 0x1002\n1 lab0 0x1003\n"


def test_what_cannot_be_done_is_one_line(home: Home) -> None:
    needed_helper()
    fails = home.root / "fails"
    fails.write_text("#!/bin/sh\nexit 3\n")
    fails.chmod(0o755)
    under = persistent(home, ALLOWED)
    with home.serve(on_socket(home), under=[under[0], "--mount", *under[1:]]) as serving:
        for asked, said in (
            ("tap://lab0?master=br7", "master=br7: there is no bridge br7; have root run: ip link add br7 type bridge"),
            ("tap://lab0?master=lo", "master=lo: lo is no bridge"),
            (f"tap://lab0?ifup={fails}", f"ifup: {fails} lab0: ended with status 3; its own words are in the log"),
            ("tap://lab0?ifup=/no/such", "ifup: /no/such: there is no such program"),
            ("tap://?helper=/no/such", "helper: /no/such: there is no such program"),
            ("tap://?helper", "helper: there is no bridge br0; have root run: ip link add br0 type bridge (failed to"),
            ("tap://?helper&br=br1", "helper: br1 is not allowed; have root add the line: allow br1 to /etc/qemu/brid"),
        ):
            done = home.run("attach", asked)
            assert done.returncode == 1
            assert done.stderr.startswith(f"vswitch: {parse(asked).url}: {said}")
            assert done.stderr.count("\n") == 1
        assert interface(serving.pid, "lab0") == {}
        assert serving.stop() == 0


@pytest.mark.parametrize("url", ["fd://{}", "tap://?fd={}"])
def test_an_open_device_is_passed_on_as_the_program_starts(home: Home, url: str) -> None:
    needed_for_tap()
    with own_network():
        tap = interfaces.make_tap("lab0")
    try:
        with home.serve(url.format(tap), pass_fds=[tap]) as serving:
            assert [(port["up"], port["peer"]) for port in home.get("ports")] == [(True, "a TAP device")]
            assert serving.stop() == 0
    finally:
        os.close(tap)


# Who may do what


def as_nobody(act: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> str:
    """What is answered to a user without rights, in this thread's network, or what an error says.

    Root may `prepare` it. What is imported there is imported before: that user may not be let into where it is.
    """
    netlink.addresses("lo")
    require(os.geteuid() == 0, "only root can become another user")
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        said = "?"
        try:
            prepare()
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = str(act())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(there, said.encode())
            os._exit(0)
    os.close(there)
    with open(here) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def network() -> Iterator[None]:
    needed_for_tap()
    with own_network():
        yield


def asking(**options: Any) -> Callable[[], None]:
    wanted = InterfaceOptions(**options)
    return lambda: setting.apply("lab0", wanted)


def test_a_user_is_told_what_root_has_to_run(network: None) -> None:
    (address,) = parse("tap://lab0?ip=10.0.0.7/24").tap.ip
    with open(interfaces.make_tap("lab0"), "rb"):
        had = interfaces.mac("lab0")
        for act, command in (
            (asking(mtu=1400), "ip link set lab0 mtu 1400"),
            (asking(mac="52:54:00:00:00:07"), "ip link set lab0 address 52:54:00:00:00:07"),
            (asking(ip=(address,)), "ip address add 10.0.0.7/24 dev lab0"),
        ):
            said = as_nobody(act)
            assert said.startswith("RefusedError: ")
            assert said.endswith(f": Operation not permitted; have root run: {command}")
        assert as_nobody(asking(mtu=1500, mac=had)) == "None"
        netlink.add_address("lab0", address)
        assert as_nobody(asking(ip=(address,))) == "None"
        assert as_nobody(lambda: setting.bring_up("lab0")) == "False"
        interfaces.set_up("lab0")
        assert as_nobody(lambda: setting.bring_up("lab0")) == "True"


def test_what_the_system_refuses_is_said_in_plain_words(network: None) -> None:
    (address,) = parse("tap://lab0?ip=fd00::7/64").tap.ip
    with open(interfaces.make_tap("lab0"), "rb"):
        ip("link add br0 type bridge")
        with pytest.raises(RefusedError, match=r"^mtu=67: the interface takes none of that size$"):
            setting.apply("lab0", InterfaceOptions(mtu=67))
        with pytest.raises(RefusedError, match=r"^master=br0: br0 is no bridge$"):
            setting.apply("br0", InterfaceOptions(master="br0"))
        interfaces.without_ipv6("lab0")
        with pytest.raises(RefusedError, match=r"IPv6 is off there; have root run: sysctl -w net\.ipv6\.conf\.lab0"):
            setting.apply("lab0", InterfaceOptions(ip=(address,)))
        with pytest.raises(RefusedError, match=r"^mtu=1400: No such device$"):
            setting.apply("lab7", InterfaceOptions(mtu=1400))


# QEMU's helper


def needed_helper() -> str:
    found = next((path for path in helper.PLACES if os.path.exists(path)), None)
    require(found, "qemu-bridge-helper not found: install the package qemu-system-common")
    assert found is not None
    return found


# In a copy of /etc, which only the test sees.
ALLOWED = """
    mount -t tmpfs tmpfs /mnt
    cp -a /etc/. /mnt
    mkdir -p /mnt/qemu
    echo allow br0 >/mnt/qemu/bridge.conf
    mount --bind /mnt /etc
"""


async def test_qemus_helper_makes_it_in_a_bridge_again_and_again(home: Home) -> None:
    needed_helper()
    bridge = "ip link add br0 type bridge; ip address add 10.0.0.7/24 dev br0; ip link set br0 mtu 1400 up"
    under = persistent(home, ALLOWED, bridge)
    with home.serve("tap://?helper", on_socket(home), under=[under[0], "--mount", *under[1:]]) as serving:
        assert serving.urls["tap1"] == "tap://?helper=yes&br=br0"
        for _ in range(2):
            await ping(home, "10.0.0.7", bytes(1300))
            found = interface(serving.pid, "tap0")
            assert (found["master"], found["mtu"]) == ("br0", 1400)
            assert ip_inside(serving.pid, "link delete tap0")
            await until(lambda: interface(serving.pid, "tap0").get("master") == "br0")
        assert serving.stop() == 0


OWN_MOUNTS = 0x0002_0000  # CLONE_NEWNS
TUN_AND_HELPER = f"""
    set -e
    mount --make-rprivate /
    {ALLOWED}
    mount -t tmpfs -o suid,dev,mode=755 tmpfs /dev/net
    mknod -m 666 /dev/net/tun c 10 200
    cp $HELPER /dev/net/helper
    chmod $MODE /dev/net/helper
    ip link add br0 type bridge
"""


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("4755", "True tap0 br0"),
        (
            "755",
            "RefusedError: helper: it has no rights; have root run: chmod u+s /dev/net/helper (failed to create tun",
        ),
    ],
)
def test_a_user_without_rights_has_a_device_if_the_helper_is_roots(network: None, mode: str, said: str) -> None:
    path = needed_helper()

    def prepare() -> None:
        assert ctypes.CDLL(None).unshare(OWN_MOUNTS) == 0
        environment = {**os.environ, "HELPER": path, "MODE": mode}
        subprocess.run(["/bin/sh", "-c", TUN_AND_HELPER], env=environment, check=True, timeout=20)

    def act() -> str:
        fd = trio.run(helper.run, "/dev/net/helper", "br0")
        name = interface_of(fd)
        return f"{is_tap(fd)} {name} {netlink.master(name)}"

    assert as_nobody(act, prepare).startswith(said)
