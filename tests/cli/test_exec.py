"""`vswitch exec` and `vswitch netns`: this machine's programs on a LAN, by namespaces."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cli.program import Home, Process, is_one_line
from tests.containers import IMAGE, store_with_image
from tests.namespaces import ip_inside, is_elsewhere, needed_for_tap
from tests.needs import require
from tests.waiting import until
from vswitch import RefusedError
from vswitch.services.user_network.slirp import Library

ADDRESSES = "import socket; print(*(socket.gethostbyname(name) for name in ('host.lan', 'web.lan')))"


@pytest.fixture(autouse=True)
def needed() -> None:
    needed_for_tap()


@pytest.fixture
def network(home: Home) -> Iterator[None]:
    try:
        Library()
    except RefusedError as error:
        require(False, str(error))
    with home.serve("unix://lan.sock", "user://10.0.2.0/24?ipv6=no&reserve=web@10.0.2.50"):
        yield


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="vs-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@contextmanager
def running(home: Home, *arguments: str, under: Sequence[str] = ()) -> Iterator[Process]:
    with home.process("exec", *arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE, under=under) as process:
        try:
            yield process
        finally:
            process.kill()


def up(home: Home) -> list[str]:
    return [port["name"] for port in home.get("ports") if port["up"]]


def rootless() -> list[str]:
    """What makes its program one of an ordinary user's, who may open what this one may."""
    unshare = shutil.which("unshare")
    assert unshare is not None
    under = [unshare, "--user", "--map-user=1000", "--map-group=1000"]
    allowed = subprocess.run([*under, unshare, "--user", "true"], capture_output=True)
    require(allowed.returncode == 0, "making a user namespace is not allowed here")
    return under


@pytest.mark.parametrize("as_user", [False, True])
def test_a_command_is_a_machine_of_the_lan(home: Home, network: None, as_user: bool) -> None:
    under = rootless() if as_user else ()
    path = {"PATH": os.environ["PATH"]}
    words = ["exec", "--port", "web", sys.executable, "-c", f"{ADDRESSES}; raise SystemExit(7)"]
    done = home.run(*words, env=path, under=under)
    assert (done.returncode, done.stdout, done.stderr) == (7, "10.0.2.2 10.0.2.50\n", "")
    until(lambda: up(home) == ["user1"], "its port goes with it")
    assert [(lease["name"], lease["port"]) for lease in home.get("leases")] == [("web", "web")]


def test_its_connections_end_in_order_and_its_name_is_free_at_once(home: Home, network: None) -> None:
    path = {"PATH": os.environ["PATH"]}
    serves = "import socket; s = socket.create_server(('', 80)); c, _ = s.accept(); print(len(c.makefile().read()))"
    says = "import socket; s = socket.create_connection(('web.lan', 80)); s.sendall(bytes(3_000_000))"
    with running(home, "--port", "web", sys.executable, "-c", serves) as server:
        until(lambda: any(lease["name"] == "web" for lease in home.get("leases")), "it has its name")
        until(
            lambda: home.run("exec", "--port", "a", sys.executable, "-c", says, env=path).returncode == 0, "it listens"
        )
        assert server.stdout is not None
        assert server.stdout.read() == b"3000000\n"
    assert home.run("exec", "--port", "a", "/bin/true").returncode == 0
    assert home.run("exec", "--port", "a", "/bin/true").returncode == 0


def test_it_has_the_usual_signals_and_control_groups(home: Home) -> None:
    groups = os.listdir("/sys/fs/cgroup")
    with home.serve("unix://lan.sock"):
        words = ["/bin/sh", "-c", "grep SigIgn /proc/self/status; ls /sys/fs/cgroup"]
        done = home.run("exec", "--ip", "10.0.2.9/24", *words, env={"PATH": os.environ["PATH"]})
        ignored, *there = done.stdout.splitlines()
        assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0
        assert sorted(there) == sorted(groups)


def test_its_port_goes_when_it_is_killed_and_has_its_parameters(home: Home) -> None:
    with (
        home.serve("unix://lan.sock"),
        running(home, "--port", "a", "--ip", "10.0.2.9/24", "--set", "vlan=7", "/bin/cat") as process,
    ):
        until(lambda: is_elsewhere(process.pid), "it is in a namespace")
        until(lambda: up(home) == ["a"], "it is plugged in")
        assert [vlan["vlan"] for vlan in home.get("vlans")] == [7]
        until(lambda: ip_inside(process.pid, "route get 10.0.2.10"), "it has its address")
        process.send_signal(signal.SIGKILL)
        until(lambda: home.get("ports") == [], "its port has gone")
        assert [endpoint["name"] for endpoint in home.get("endpoints")] == ["unix1"]


def test_a_namespace_is_left_as_it_was_when_its_address_is_not_waited_for(home: Home) -> None:
    with home.serve("unix://lan.sock"), subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as other:
        try:
            until(lambda: is_elsewhere(other.pid), "the namespace is there")
            assert ip_inside(other.pid, "tuntap add uplink mode tap")
            assert ip_inside(other.pid, "link set uplink up")
            assert ip_inside(other.pid, "route add default dev uplink")
            with home.process("netns", f"/proc/{other.pid}/ns/net", stderr=subprocess.PIPE) as process:
                until(lambda: len(up(home)) == 1, "it is plugged in")
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 128 + signal.SIGTERM
            until(lambda: home.get("endpoints")[1:] == [], "it is taken out again")
            assert not ip_inside(other.pid, "link show eth0")
            words = ["netns", f"/proc/{other.pid}/ns/net", "--ip", "10.0.2.9/24", "--gateway", "10.0.2.2"]
            assert home.run(*words).returncode == 0
            routes = subprocess.check_output(["nsenter", "--target", str(other.pid), "--net", "ip", "route"], text=True)
            assert re.findall("default .*dev ([a-z0-9]+)", routes) == ["uplink"]
        finally:
            other.kill()


def test_a_namespace_that_there_is(home: Home, network: None) -> None:
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as other:
        try:
            until(lambda: is_elsewhere(other.pid), "the namespace is there")
            name = f"proc-{other.pid}-ns-net"
            done = home.run("netns", f"/proc/{other.pid}/ns/net", "--interface", "lan0")
            assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}  10.0.2.15\n", "")
            assert ip_inside(other.pid, "route get 10.0.2.2")
            assert up(home) == ["user1", name]
            assert home.run("detach", name).returncode == 0
            assert not ip_inside(other.pid, "link show lan0")
        finally:
            other.kill()


@contextmanager
def ordinary_user() -> Iterator[list[str]]:
    """A user namespace in which this user is not root; what starts programs there."""
    with subprocess.Popen([*rootless(), "cat"], stdin=subprocess.PIPE) as first:
        try:
            until(lambda: os.readlink(f"/proc/{first.pid}/ns/user") != os.readlink("/proc/self/ns/user"), "it is there")
            until(lambda: b"cat" in Path(f"/proc/{first.pid}/cmdline").read_bytes(), "its user is set")
            yield [shutil.which("nsenter") or "nsenter", "--target", str(first.pid), "--user", "--preserve-credentials"]
        finally:
            first.kill()


def test_a_namespace_of_a_users_own_takes_no_root_and_its_port_goes_with_the_process(home: Home, network: None) -> None:
    with ordinary_user() as under:
        unshare = [*under, "unshare", "--user", "--map-root-user", "--net", "cat"]
        with subprocess.Popen(unshare, stdin=subprocess.PIPE) as other:
            try:
                until(lambda: is_elsewhere(other.pid), "the namespace is there")
                refused = home.run("netns", "/proc/self/ns/net", under=under)
                expected = (
                    "vswitch: /proc/self/ns/net: Operation not permitted; it takes root, or the user who has made it\n"
                )
                assert (refused.returncode, refused.stderr) == (1, expected)
                done = home.run("netns", str(other.pid), under=under)
                assert (done.returncode, done.stdout, done.stderr) == (0, f"pid-{other.pid}  10.0.2.15\n", "")
                assert ip_inside(other.pid, "route get 10.0.2.2")
            finally:
                other.kill()
        until(lambda: up(home) == ["user1"], "its port goes with it")


def test_a_container_that_podman_runs_without_root_is_on_the_lan_before_its_command_begins(
    home: Home, network: None, directory: Path
) -> None:
    (directory / "resolv.conf").write_text("nameserver 10.0.2.3\nsearch lan\n")
    with ordinary_user() as under:
        environment = os.environ | store_with_image(directory, under, {"XDG_RUNTIME_DIR": str(directory)})

        def podman(*words: str) -> str:
            done = subprocess.run([*under, "podman", *words], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        resolv = f"--volume={directory}/resolv.conf:/etc/resolv.conf:ro"
        try:
            podman("create", "--name=web", "--network=none", resolv, IMAGE, "ping", "-c", "1", "host.lan")
            podman("init", "web")
            pid = podman("inspect", "--format={{.State.Pid}}", "web")
            done = home.run("netns", "--port", "web", pid, under=under)
            assert (done.returncode, done.stdout, done.stderr) == (0, "web  10.0.2.50\n", "")
            assert "1 packets received" in podman("start", "--attach", "web")
            until(lambda: up(home) == ["user1"], "its port goes with it")
        finally:
            podman("rm", "--force", "--ignore", "--time=0", "web")
            podman("system", "migrate")  # ends the process that keeps podman's user namespace


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["exec", "true"], 1, "nobody gives addresses by DHCP on this LAN; say --ip"),
        (["exec", "--ip", "10.0.2.9/24", "no-such-program"], 1, "no-such-program: No such file or directory"),
        (["exec", "--ip", "x", "true"], 2, "--ip: 'x' is no address; write it like 10.0.2.50/24"),
        (["exec", "--ip", "10.0.2.9", "true"], 2, "--ip: '10.0.2.9' is no address; write it like 10.0.2.50/24"),
        (
            ["exec", "--ip", "10.0.2.9/24", "--gateway", "10.9.0.1", "true"],
            2,
            "--gateway: 10.9.0.1 is not in 10.0.2.0/24",
        ),
        (["exec", "--dns", "10.0.2.3", "true"], 2, "--gateway and --dns go with --ip"),
        (["exec", "--ip", "10.0.2.9/24", "--set", "vlan=x", "true"], 2, "vlan: 'x' is not a number"),
        (["netns", "no-such-namespace"], 1, "/run/netns/no-such-namespace: No such file or directory"),
        (
            ["netns", "4194304"],
            1,
            "/proc/4194304/ns/net: No such file or directory; name one of ip netns, a process or",
        ),
        (["netns", "0"], 2, "'0' is not a number from 1 to 4194304"),
        (["netns", "/proc/self/ns/net", "--interface", "x" * 16], 2, f"'{'x' * 16}' cannot be an interface's name"),
    ],
)
def test_what_cannot_be_is_said(home: Home, arguments: list[str], code: int, says: str) -> None:
    with home.serve("unix://lan.sock"):
        done = home.run(*arguments)
        assert (done.returncode, is_one_line(done.stderr)) == (code, True)
        assert done.stderr.startswith(f"vswitch: {says}")
        until(lambda: home.get("ports") == [], "nothing is left")
