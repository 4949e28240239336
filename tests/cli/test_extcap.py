"""`extcap`: tshark lists running switches and captures from them; what Wireshark asks beside, asked as it asks it."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socket import MSG_DONTWAIT

import pytest

from tests import captures
from tests.cli.program import COMMAND_TIMEOUT_S, MORTAL, Home, connect, is_one_line, read_to_end
from tests.frames import BROADCAST, framed, mac
from tests.needs import require
from tests.signals import default_signals
from tests.waiting import until
from vswitch.cli.capturing.extcap import CONFIG, DLTS
from vswitch.edges.packet_filter import is_available

SWITCH = "a.b:c"
ALL_PORTS = f"vswitch:{SWITCH}"
PREFERENCE = "extcap.vswitch_a_b_c"  # as Wireshark spells it
ARP, OTHER = b"\x08\x06", b"\x88\xb5"


class Desk:
    """A user with Wireshark's programs and, once installed, our own in `old` and `new`."""

    def __init__(self, home: Home) -> None:
        self.home = home
        home.env["HOME"] = str(home.root)
        self.new = home.root / ".local/lib/wireshark/extcap/vswitch"
        self.old = home.root / ".config/wireshark/extcap/vswitch"

    def install(self) -> None:
        done = self.home.run("extcap", "--install")
        assert (done.returncode, done.stderr) == (0, "")

    def ask(self, *arguments: str) -> str:
        """What the installed program answers; `ended` is for what goes wrong."""
        done = self.ended(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def ended(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run([str(self.new), *arguments])

    def listed(self) -> dict[str, str]:
        """tshark's interfaces that are ours: their names, and what they are shown as."""
        found = re.findall(r"^\d+\. (vswitch\S+) \((.*)\)$", self._run([*_tshark(), "-D"]).stdout, re.MULTILINE)
        return dict(found)

    def link_types(self, interface: str) -> str:
        return self._run([*_tshark(), "-i", interface, "-L"]).stdout

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.home.env, cwd=self.home.root, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )

    @contextmanager
    def start(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A program that goes on, in a process group of its own, which is killed in the end if it still runs."""
        with default_signals():
            process = subprocess.Popen(
                [*MORTAL, *command],
                env=self.home.env,
                cwd=self.home.root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    @contextmanager
    def capture(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
        """The installed program as it captures, and the end of its FIFO that Wireshark reads."""
        fifo = self.home.root / f"fifo-{len(list(self.home.root.glob('fifo-*')))}"
        os.mkfifo(fifo, 0o600)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        with self.start(str(self.new), "--capture", "--fifo", str(fifo), *arguments) as process:
            yield process, reader


class Lan(Desk):
    """A switch with the ports `web.1`, `web.2` and `vm:0`."""

    def __init__(self, home: Home, stack: ExitStack) -> None:
        super().__init__(home)
        self.install()
        self.serving = stack.enter_context(
            home.serve("unix://web.sock?name=web", "unix://vm.sock?name=vm:0&single=yes", "--name", SWITCH)
        )
        self.guests = []
        for number, path in enumerate(["web.sock", "web.sock", "vm.sock"], 1):
            self.guests.append(stack.enter_context(connect(f"unix://{home.root}/{path}")))
            self._wait_for_guests(number)

    def _wait_for_guests(self, number: int) -> None:
        until(lambda: sum(port["up"] for port in self.home.get("ports", SWITCH)) == number, "the guest is in")

    def send(self) -> None:
        """`web.1` sends an ARP, another frame, and one from a group that the switch drops; the others read."""
        self.guests[0].sendall(framed([_frame(mac(1), ARP), _frame(mac(1), OTHER), _frame(BROADCAST, OTHER)]))
        for guest in self.guests[1:]:
            with suppress(BlockingIOError):
                guest.recv(1 << 20, MSG_DONTWAIT)

    def send_until_shown(self, tshark: subprocess.Popen[str], words: set[str]) -> str:
        """What tshark shows as frames are sent, once it has shown all of `words`."""
        assert tshark.stdout is not None
        reader = tshark.stdout.fileno()
        os.set_blocking(reader, False)
        shown = ""

        def all_shown() -> bool:
            nonlocal shown
            self.send()
            shown += _available(reader).decode()
            return words <= set(shown.split())

        until(all_shown, f"tshark shows {words}")
        os.set_blocking(reader, True)
        return shown

    def tshark(self, interface: str, *arguments: str, fields: str) -> list[tuple[str, ...]]:
        """What tshark shows of frames that are sent until it ends."""
        code, shown, error = self.tshark_ended(interface, *arguments, *_fields(fields))
        assert code == 0, error
        return [tuple(line.split("\t")) for line in shown.splitlines()]

    def tshark_ended(self, interface: str, *arguments: str) -> tuple[int, str, str]:
        with self.start(*_tshark(), "-i", interface, *arguments) as tshark:
            until(lambda: self.send() or tshark.poll() is not None, "tshark has ended")  # type: ignore[func-returns-value]
            shown, error = tshark.communicate(timeout=COMMAND_TIMEOUT_S)  # those it has started end too
            return tshark.returncode, shown, error


def _tshark() -> list[str]:
    found = shutil.which("tshark")
    require(found, "tshark is not installed")
    return [str(found), "-n"]


def _fields(names: str) -> list[str]:
    return ["-T", "fields", *(word for name in names.split() for word in ("-e", name))]


def _frame(src: int, kind: bytes) -> bytes:
    return (BROADCAST.to_bytes(6) + src.to_bytes(6) + kind).ljust(60, b".")


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with ExitStack() as stack:
        home = Home(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp"))))
        yield Lan(home, stack)


@pytest.fixture
def desk(home: Home) -> Desk:
    return Desk(home)


def test_tshark_lists_the_switch_and_each_port(lan: Lan) -> None:
    assert lan.listed() == {
        "vswitch:a.b:c": "vswitch a.b:c: all ports",
        "vswitch:a.b:c+web.1": "vswitch a.b:c: web.1",
        "vswitch:a.b:c+web.2": "vswitch a.b:c: web.2",
        "vswitch:a.b:c+vm:0": "vswitch a.b:c: vm:0",
    }


def test_all_ports_are_captured(lan: Lan) -> None:
    found = lan.tshark(
        ALL_PORTS,
        "-f",
        "ether src 52:54:00:00:00:01 and arp",
        "-a",
        "packets:6",
        fields="frame.interface_name frame.packet_flags_direction frame.len eth.src",
    )
    round_ = {("web.1", "0x00000001"), ("web.2", "0x00000002"), ("vm:0", "0x00000002")}
    assert {line[:2] for line in found} == round_
    assert len(found) == 6
    assert {line[2:] for line in found} == {("60", "52:54:00:00:00:01")}


def test_one_port_is_captured(lan: Lan) -> None:
    found = lan.tshark(f"{ALL_PORTS}+vm:0", "-a", "packets:6", fields="frame.interface_name eth.type")
    assert found == [("vm:0", "0x0806"), ("vm:0", "0x88b5")] * 3


def test_a_capture_filter_is_applied(lan: Lan) -> None:
    found = lan.tshark(f"{ALL_PORTS}+web.1", "-f", "arp", "-a", "packets:4", fields="frame.interface_name eth.type")
    assert found == [("web.1", "0x0806")] * 4


def test_ctrl_c_ends_a_capture_of_ports_side_by_side(lan: Lan) -> None:
    """The terminal signals all of its programs; then tshark ends those it has started."""
    interfaces = ["-i", f"{ALL_PORTS}+web.1", "-i", f"{ALL_PORTS}+vm:0"]
    with lan.start(*_tshark(), *interfaces, "-l", *_fields("frame.interface_name")) as tshark:
        shown = lan.send_until_shown(tshark, {"web.1", "vm:0"})
        os.killpg(tshark.pid, signal.SIGINT)
        rest, error = tshark.communicate(timeout=COMMAND_TIMEOUT_S)
        assert tshark.returncode == 0, error
    assert set((shown + rest).split()) == {"web.1", "vm:0"}
    assert "Error by extcap" not in error


def test_what_can_be_set_in_wireshark(lan: Lan) -> None:
    """The names of preferences are Wireshark's own: digits but the 0 stay, a port's name is `web_1`."""
    options = {"drops": "true", "snaplen": "20", "lossless": "true"}
    set_ = [word for name, value in options.items() for word in ("-o", f"{PREFERENCE}_web_1.{name}:{value}")]
    fields = "frame.comment frame.cap_len frame.len"
    found = lan.tshark(f"{ALL_PORTS}+web.1", *set_, "-a", "packets:2", fields=fields)
    assert found == [("dropped: bad_source", "20", "60")] * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-f", "arp or"], "syntax error"),
        (["-o", f"{PREFERENCE}.snaplen:much"], "snaplen"),
        (["-o", f"{PREFERENCE}.snaplen:0"], "1 to 262144"),
    ],
)
def test_what_is_wrong_is_said_and_nobody_waits(lan: Lan, arguments: list[str], said: str) -> None:
    code, _, error = lan.tshark_ended(ALL_PORTS, *arguments)
    assert code != 0
    assert re.search(f"Error by extcap pipe: vswitch: .*{said}", error)
    assert "Traceback" not in error


def test_a_filter_is_checked_for_wiresharks_filter_box(lan: Lan) -> None:
    """Silence is a good one; what is wrong counts only on standard output, and with exit code 0."""
    require(is_available(), "there is no libpcap")

    def check(text: str) -> str:
        return lan.ask("--extcap-capture-filter", text, "--extcap-interface", ALL_PORTS)

    assert check("") == check("arp or vlan 10") == ""
    wrong = check("arp or")
    assert is_one_line(wrong)
    assert "syntax error" in wrong
    assert is_one_line(check("inbound"))


def test_the_link_type_and_the_settings_need_no_python(lan: Lan) -> None:
    """Wireshark asks for them once for each port."""
    assert "EN10MB (Ethernet)" in lan.link_types(ALL_PORTS)
    for question, answer in {"--extcap-dlts": DLTS, "--extcap-config": CONFIG}.items():
        asked = (question, "--extcap-interface", ALL_PORTS)
        direct = lan.home.run("extcap", *asked)
        assert direct.stdout == lan.ask(*asked) == answer + "\n"
    broken = lan.new.read_text().replace(sys.executable, "/nonexistent/python")
    assert broken != lan.new.read_text()
    done = subprocess.run(["sh", "-c", broken, "sh", *asked], capture_output=True, timeout=COMMAND_TIMEOUT_S)
    assert (done.stdout.decode(), done.stderr) == (CONFIG + "\n", b"")


def test_a_signal_ends_a_capture_that_is_complete(lan: Lan) -> None:
    with lan.capture("--extcap-interface", ALL_PORTS) as (process, reader):
        started = _read_some(reader)
        process.send_signal(signal.SIGTERM)
        read = captures.parse(started + read_to_end(reader))
        assert process.communicate(timeout=COMMAND_TIMEOUT_S) == ("", "")
        assert process.returncode == 0
    assert {interface.name for interface in read.ports} == {"web.1", "web.2", "vm:0"}
    read.check_statistics()


def test_a_capture_ends_when_nobody_reads_it_though_nothing_is_to_be_written(lan: Lan) -> None:
    with lan.capture("--extcap-interface", ALL_PORTS) as (process, reader):
        _read_some(reader)
        os.close(reader)
        assert process.communicate(timeout=COMMAND_TIMEOUT_S) == ("", "")
        assert process.returncode == 0


def test_a_wireshark_that_never_opens_its_end_leaves_nobody_behind(lan: Lan) -> None:
    fifo = lan.home.root / "never"
    os.mkfifo(fifo)
    program = (
        "import sys; from vswitch.cli import main; import vswitch.cli.capturing.extcap as it; it.OPEN_TIMEOUT_S = 1; "
        f"sys.argv[1:] = ['extcap', '--capture', '--extcap-interface', '{ALL_PORTS}', '--fifo', '{fifo}']; main()"
    )
    with lan.start(sys.executable, "-c", program) as process:
        assert process.wait(COMMAND_TIMEOUT_S) == -signal.SIGALRM


def test_a_port_that_is_gone_is_an_error_of_one_line(lan: Lan) -> None:
    """Wireshark remembers what it has listed."""
    with lan.capture("--extcap-interface", f"{ALL_PORTS}+web.9") as (process, reader):
        assert read_to_end(reader) == b""
        shown, error = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert (process.returncode, shown) == (2, "")
    assert is_one_line(error)
    assert "'web.9'" in error


def test_when_the_switch_ends_so_does_tshark(home: Home) -> None:
    with ExitStack() as stack:
        lan = Lan(home, stack)
        command = [*_tshark(), "-i", f"{ALL_PORTS}+web.1", "-l", *_fields("frame.interface_name")]
        tshark = stack.enter_context(lan.start(*command))
        lan.send_until_shown(tshark, {"web.1"})
        assert lan.serving.stop() == 0
        _, error = tshark.communicate(timeout=COMMAND_TIMEOUT_S)
        assert "Error by extcap" not in error
        assert tshark.returncode == 0


def test_no_switch_is_no_interface_and_no_error(desk: Desk) -> None:
    desk.install()
    assert re.fullmatch(r"extcap \{version=\S+\}\n", desk.ask("--extcap-interfaces", "--extcap-version=4.0"))
    assert desk.listed() == {}


def test_a_switch_that_is_gone_is_an_error_of_one_line_and_the_end_of_the_fifo(desk: Desk) -> None:
    """Without the FIFO's end Wireshark would wait for ever."""
    desk.install()
    with desk.capture("--extcap-interface", "vswitch:lab") as (process, reader):
        process.wait(COMMAND_TIMEOUT_S)
        assert read_to_end(reader) == b""
        shown, error = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert (process.returncode, shown) == (1, "")
    assert is_one_line(error)
    assert "no switch 'lab' is running" in error
    done = desk.ended("--capture", "--extcap-interface", "vswitch:lab", "--fifo", "/nonexistent/fifo")
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)


def test_installed_and_taken_back(desk: Desk) -> None:
    for _ in range(2):
        done = desk.home.run("extcap", "--install")
        assert (done.returncode, done.stderr) == (0, "")
        for path in (desk.new, desk.old):
            assert str(path) in done.stdout
            assert stat.S_IMODE(path.stat().st_mode) == 0o755
            assert list(path.parent.iterdir()) == [path]
        assert "vswitch extcap --uninstall" in done.stdout
    with desk.home.serve("unix://lan.sock"):
        assert list(desk.listed()) == ["vswitch:default"]
        done = desk.home.run("extcap", "--uninstall")
        assert (done.returncode, done.stderr) == (0, "")
        assert str(desk.new) in done.stdout
        assert not desk.new.exists()
        assert not desk.old.exists()
        assert desk.listed() == {}
    assert desk.home.run("extcap", "--uninstall").returncode == 0


def test_installed_where_this_users_wireshark_looks(desk: Desk) -> None:
    """Before 4.2 that is its directory of settings; the one in the home directory counts if there is no newer one."""
    root = desk.home.root
    (root / ".wireshark").mkdir()
    with desk.home.serve("unix://lan.sock"):
        desk.install()
        assert (root / ".wireshark/extcap/vswitch").exists()
        assert not desk.old.exists()
        assert list(desk.listed()) == ["vswitch:default"]
        desk.home.env["XDG_CONFIG_HOME"] = str(root / "settings")
        (root / "settings/wireshark").mkdir(parents=True)
        assert desk.listed() == {}
        desk.install()
        assert (root / "settings/wireshark/extcap/vswitch").exists()
        assert list(desk.listed()) == ["vswitch:default"]


@pytest.mark.parametrize("action", ["--install", "--uninstall"])
def test_a_file_that_is_not_ours_is_left_alone(desk: Desk, action: str) -> None:
    desk.old.parent.mkdir(parents=True)
    desk.old.write_bytes(b"\xff their own")
    done = desk.home.run("extcap", action)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)
    assert str(desk.old) in done.stderr
    assert desk.old.read_bytes() == b"\xff their own"
    assert not desk.new.exists()


def test_what_cannot_be_written_is_one_line(desk: Desk) -> None:
    (desk.home.root / ".local").write_text("a file")
    done = desk.home.run("extcap", "--install")
    assert done.returncode == 1
    assert is_one_line(done.stderr)
    assert str(desk.new) in done.stderr


def test_alone_it_says_what_it_is_for(desk: Desk) -> None:
    done = desk.home.run("extcap")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_line(done.stderr)
    assert "--install" in done.stderr


def _read_some(reader: int) -> bytes:
    """What is in a pipe, once something is."""
    return until(lambda: _available(reader), "something comes through the pipe")


def _available(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 16)
    except BlockingIOError:
        return b""
