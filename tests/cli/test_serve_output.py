"""What `serve` prints for people and programs: endpoints, lines to paste, `ready`."""

import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pytest

from tests.cli.program import COMMAND_TIMEOUT_S, Home, check_refused, connect, is_one_line, package_root, read_to_end
from tests.e2e.test_qemu_datagrams import free_group
from tests.frames import BROADCAST, frame, framed, mac
from tests.needs import require
from tests.waiting import until

DEVICE = r"-device virtio-net-pci,netdev=net0,mac=(52:54:00:[0-9a-f:]{8})"


@pytest.fixture
def network() -> list[str]:
    """What to start a program under so that it has a network of its own, with nothing but loopback."""
    unshare, ip, shell = (shutil.which(program) for program in ("unshare", "ip", "sh"))
    require(unshare and ip, "unshare and ip are needed")
    assert unshare is not None
    assert shell is not None
    alone = [unshare, "-n" if os.geteuid() == 0 else "-rn"]
    allowed = subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    require(allowed, "making a network namespace is not allowed here")
    return [*alone, shell, "-c", f'{ip} link set lo up && exec "$@"', shell]


def test_an_endpoint_is_printed_with_its_name_its_url_and_its_lines_and_ready_comes_last(home: Home) -> None:
    home.install_qemu("9.2.0")
    with home.serve("tcp://127.0.0.1:0") as serving:
        head, *lines, ready = serving.lines
        found = re.fullmatch(r"tcp1  tcp://127\.0\.0\.1:(\d+)", head)
        assert found is not None
        assert ready == "ready"
        stream = rf"stream,id=net0,server=off,reconnect-ms=1000,addr.type=inet,addr.host=127.0.0.1,addr.port={found[1]}"
        plain = rf"socket,id=net0,connect=127.0.0.1:{found[1]}"
        assert lines[0] == "  add to each guest's QEMU one of:"
        assert lines[3] == "  or, for any QEMU:"
        addresses = []
        for line, netdev in [(lines[1], stream), (lines[2], stream), (lines[4], plain), (lines[5], plain)]:
            match = re.fullmatch(f"    -netdev {netdev} {DEVICE}", line)
            assert match, line
            addresses.append(match[1])
        assert addresses[0] == addresses[2] != addresses[1] == addresses[3]
        assert len(lines) == 6
        assert serving.stop() == 0
        assert serving.lines[-1] == "ready"


def test_the_printed_port_is_the_one_that_was_chosen(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0", "tcp://[::1]:0?name=six") as serving:
        assert serving.urls.keys() == {"tcp1", "six"}
        for url in serving.urls.values():
            assert not url.endswith(":0")
            connect(url).close()


def test_guests_can_connect_as_soon_as_ready_is_there(home: Home) -> None:
    path = home.root / "lan.sock"
    with home.serve(f"unix://{path}") as serving:
        assert serving.urls == {"unix1": f"unix://{path}"}
        connect(f"unix://{path}").close()


@pytest.mark.parametrize(
    ("version", "best", "other"),
    [
        ("6.2.0", "-netdev socket,", "or, from QEMU 7.2 on:"),
        ("7.2.4", "-netdev stream,id=net0,server=off,addr", "or, for any QEMU:"),
        ("8.2.2", "-netdev stream,id=net0,server=off,reconnect=1,", "or, for any QEMU:"),
        ("10.0.2", "-netdev stream,id=net0,server=off,reconnect-ms=1000,", "or, for any QEMU:"),
    ],
)
def test_the_lines_are_for_the_qemu_that_is_there(home: Home, version: str, best: str, other: str) -> None:
    home.install_qemu(version)
    with home.serve("tcp://127.0.0.1:0") as serving:
        assert serving.lines[2].strip().startswith(best)
        assert serving.lines[4].strip() == other


@pytest.mark.parametrize("script", ["exec sleep 60", "echo nonsense", "exit 1", "kill -9 $$"])
def test_a_qemu_that_does_not_say_its_version_holds_nothing_up(home: Home, script: str) -> None:
    home.install_qemu("0.0")
    (program,) = home.programs.iterdir()
    program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    with home.serve("tcp://127.0.0.1:0") as serving:
        assert "-netdev" in serving.lines[2]
        assert serving.stop() == 0


def test_a_connector_is_printed_with_the_lines_of_a_guest_that_listens(home: Home) -> None:
    path = home.root / "guest.sock"
    with home.serve(f"unix://{path}?connect&name=vm") as serving:
        head, hint, line, ready = serving.lines
        assert head == f"vm  unix://{path}?connect"
        assert hint == "  add to a guest's QEMU:"
        assert re.fullmatch(rf"    -netdev stream,id=net0,server=on,addr\.type=unix,addr\.path={path} {DEVICE}", line)
        assert ready == "ready"


A, B, C = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        (f"unix://lan.sock?allow_mac={B},{A},{C}", [B, A]),
        (f"unix://lan.sock?allow_mac={A}", [A]),
        (f"unix://lan.sock?single&allow_mac={A},{B}", [A]),
        (f"unix://lan.sock?single&static={B}", [B]),
        (f"unix://lan.sock?single&static={B},{A}&allow_mac={A},{C}&locked", [A]),
        (f"unix://lan.sock?connect&static={C}&locked", [C]),
        (f"udp://127.0.0.1:0?allow_mac={A}", [A, A]),  # for two kinds of netdev
    ],
)
def test_the_printed_addresses_are_those_that_the_port_lets_in(home: Home, url: str, addresses: list[str]) -> None:
    with home.serve(url) as serving:
        assert re.findall("mac=(.*)", "\n".join(serving.lines)) == addresses


def test_a_group_is_printed_with_no_more_guests_than_its_port_takes(home: Home) -> None:
    groups = [f"mcast://{free_group()}?name={policy[0]}&{policy}" for policy in ("max_macs=1", "pad=yes")]
    with home.serve(*groups) as serving:
        limited, other = "\n".join(serving.lines).split("\np  ")
        assert (limited.count("-netdev dgram"), other.count("-netdev dgram")) == (1, 2)


def test_a_guest_with_a_printed_address_gets_its_frames_through_and_no_other(home: Home) -> None:
    with home.serve(f"unix://{home.root}/g?allow_mac={A}", f"unix://{home.root}/o?single") as serving:
        printed = re.findall("mac=(.*)", "\n".join(serving.lines))[0]
        with connect(f"unix://{home.root}/o") as other, connect(f"unix://{home.root}/g") as guest:
            until(lambda: all(port["up"] for port in home.get("ports")) and len(home.get("ports")) == 2, "both are in")
            good = framed([frame(BROADCAST, int(printed.replace(":", ""), 16))])
            guest.sendall(framed([frame(BROADCAST, int(B.replace(":", ""), 16))]) + good)
            assert other.recv(65536) == good
            assert home.get("status")["totals"]["drops"] == {"spoofed_mac": 1}


def test_what_to_know_of_a_port_stands_above_its_lines(home: Home) -> None:
    with home.serve("unix://lan.sock?vlan=10&max_frame=1400", "unix://m?single&mirror_of=unix1") as serving:
        head, vlan, mtu, title, first, second, _, mirror, *_ = serving.lines
        assert head.startswith("unix1 ")
        assert vlan == "  in VLAN 10: the guest sends frames without a tag"
        assert mtu == "  max_frame=1400: the guest's MTU has to be 1386 or less"
        assert title == "  add to each guest's QEMU one of:"
        assert all(re.fullmatch(rf"    -netdev stream,.* {DEVICE},host_mtu=1386", line) for line in (first, second))
        assert mirror.startswith("  a mirror: ")


def test_a_path_that_needs_it_is_quoted_for_the_shell(home: Home) -> None:
    with home.serve("unix://it's a lan.sock") as serving:
        script = "\n".join(f"printf '%s\\n' {line.strip()}" for line in serving.lines if "-netdev" in line)
        pasted = subprocess.run(
            ["/bin/sh", "-c", script], capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT_S
        )
        words = pasted.stdout.splitlines()
        assert len(words) == 8
        assert words[1].endswith(f"addr.path={home.root}/it's a lan.sock")


@pytest.mark.parametrize("name", ["%ff.sock", "é.sock", "a,b.sock", "[1].sock"])
def test_a_path_with_any_letters_is_served(home: Home, name: str) -> None:
    with home.serve(f"unix://{name}", env={"PYTHONIOENCODING": "utf-8:strict"}) as serving:
        assert [line[:5] for line in serving.lines if not line.startswith(" ")] == ["unix1", "ready"]
        path = os.fsdecode(unquote_to_bytes(name))
        with connect(f"unix://{home.root}/{path}"):
            until(lambda: home.get("ports"), "the guest has its port")
            assert serving.stop() == 0


@pytest.mark.parametrize("name", ["a%0Ab.sock", "%1b[31m.sock", "%e2%80%ae.sock"])
def test_a_path_that_would_upset_a_terminal_is_refused_or_shown_safely(home: Home, name: str) -> None:
    with home.start(f"unix://{name}") as serving:
        if serving.wait_ready_or_end():
            assert all(line.isprintable() for line in serving.lines)
            assert [line[:5] for line in serving.lines if not line.startswith(" ")] == ["unix1", "ready"]
        else:
            assert serving.ended() == 2
            assert is_one_line(serving.error)


USER = {"user1": "user://10.0.2.0/24"}


def test_without_url_or_file_there_are_the_usual_endpoints(home: Home, network: list[str]) -> None:
    with home.serve(under=network) as serving:
        path = home.directory / "default.sock"
        assert serving.urls == {"tcp1": "tcp://127.0.0.1:1234", "unix1": f"unix://{path}"} | USER
        assert "is a network of its own: guests on this switch get an address there by DHCP" in "\n".join(serving.lines)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        connect(f"unix://{path}").close()
        assert home.get("status")["name"] == "default"
        assert serving.stop() == 0
    assert list(home.directory.iterdir()) == []


def test_the_usual_unix_endpoint_is_called_like_the_switch(home: Home, network: list[str]) -> None:
    with home.serve("--name", "lab", under=network) as serving:
        assert serving.urls["unix1"] == f"unix://{home.directory}/lab.sock"
        assert home.get("status", "lab")["name"] == "lab"


def test_a_file_without_endpoints_leaves_the_usual_ones(home: Home, network: list[str]) -> None:
    (home.root / "lab.toml").write_text('[switch]\nname = "lab"\n')
    with home.serve("--config", "lab.toml", under=network) as serving:
        assert serving.urls == {"tcp1": "tcp://127.0.0.1:1234", "unix1": f"unix://{home.directory}/lab.sock"} | USER


def test_the_usual_endpoints_written_out_are_all_there_is(home: Home, network: list[str]) -> None:
    with home.serve("tcp://127.0.0.1:1234", f"unix://{home.directory}/default.sock", under=network) as serving:
        assert serving.urls.keys() == {"tcp1", "unix1"}


def test_the_user_network_may_be_left_out(home: Home, network: list[str]) -> None:
    with home.serve("--no-user", under=network) as serving:
        assert serving.urls.keys() == {"tcp1", "unix1"}


def test_without_libslirp_the_others_are_there_and_it_is_said(home: Home, network: list[str]) -> None:
    without = "import cffi\ndef dlopen(*_): raise OSError\ncffi.FFI.dlopen = dlopen\n"
    (home.root / "sitecustomize.py").write_text(without)
    path = os.pathsep.join([str(home.root), home.env["PYTHONPATH"]])
    with home.serve(env={"PYTHONPATH": path}, under=network) as serving:
        assert serving.urls.keys() == {"tcp1", "unix1"}
        serving.wait_said("guests get no addresses: user://10.0.2.0/24: the library libslirp is missing; install it (")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_an_inherited_listening_socket(home: Home, server: socket.socket) -> None:
    port = server.getsockname()[1]
    with home.serve(f"fd://{server.fileno()}?name=lab", pass_fds=[server.fileno()]) as serving:
        server.close()
        assert serving.urls.keys() == {"lab"}
        with connect(f"tcp://127.0.0.1:{port}"):
            assert serving.stop() == 0


def test_an_inherited_connected_socket(home: Home) -> None:
    here, there = socket.socketpair()
    with here, home.serve(f"fd://{there.fileno()}", pass_fds=[there.fileno()]) as serving:
        there.close()
        (port,) = home.get("ports")
        assert (port["name"], port["up"]) == ("fd1", True)
        assert serving.stop() == 0
        here.settimeout(COMMAND_TIMEOUT_S)
        assert here.recv(1) == b""


def test_the_config_file_says_what_options_do_not(home: Home) -> None:
    (home.root / "lab.toml").write_text("""
        [switch]
        name = "filed"
        ageing = "10s"
        table_size = 1

        [[endpoint]]
        url = "tcp://127.0.0.1:0"
        name = "web"

        [[endpoint]]
        url = "unix://lan.sock"
        single = true
    """)
    with home.serve("--config", "lab.toml") as serving:
        assert serving.urls.keys() == {"web", "unix1"}
        assert home.get("status", "filed")["name"] == "filed"
    with home.serve("--config", "lab.toml", "--name", "told", "tcp://127.0.0.1:0") as serving:
        assert list(serving.urls) == ["web", "unix1", "tcp1"]
        assert home.get("status", "told")["name"] == "told"


@pytest.mark.parametrize(("arguments", "remembered"), [((), 1), (("--table-size", "3"), 3)])
def test_the_table_size_is_the_options_or_else_the_files(
    home: Home, arguments: tuple[str, ...], remembered: int
) -> None:
    (home.root / "lab.toml").write_text("[switch]\ntable_size = 1\n[[endpoint]]\nurl = 'unix://lan.sock'\n")
    with home.serve("--config", "lab.toml", *arguments), connect(f"unix://{home.root}/lan.sock") as peer:
        peer.sendall(framed(frame(BROADCAST, mac(station)) for station in range(5)))
        until(lambda: home.get("status")["totals"]["rx_frames"] == 5, "five frames come in")
        assert len(home.get("macs")) == remembered


def test_the_ageing_time_is_the_options_even_if_the_file_has_one(home: Home) -> None:
    (home.root / "lab.toml").write_text("[switch]\nageing = '1h'\n[[endpoint]]\nurl = 'unix://lan.sock'\n")
    arguments = ("--config", "lab.toml", "--ageing", "1s")
    with home.serve(*arguments), connect(f"unix://{home.root}/lan.sock") as peer:
        peer.sendall(framed([frame(BROADCAST, mac(1))]))
        until(lambda: home.get("macs"), "the station is learned")
        until(lambda: not home.get("macs"), "the station is forgotten")


@pytest.mark.parametrize(
    ("arguments", "file"), [((), "filed.pcapng"), (("--capture", "told.pcapng", "--record", "2MiB"), "told.pcapng")]
)
def test_captures_are_the_options_or_else_the_files(home: Home, arguments: tuple[str, ...], file: str) -> None:
    record = "60GiB" if arguments else "1MiB"  # more than there is does not matter where an option says less
    (home.root / "lab.toml").write_text(
        f"[switch]\ncapture = 'filed.pcapng'\nrecord = '{record}'\n[[endpoint]]\nurl = 'unix://lan.sock'\n"
    )
    with home.serve("--config", "lab.toml", *arguments):
        assert [path.name for path in home.root.glob("*.pcapng")] == [file]
        assert home.run("dump", "recorded.pcapng").returncode == 0


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('record = "60GiB"', "lab.toml: [switch] record: there is not the memory to record 61,440 MiB; record "),
        ('capture = "none/lan.pcapng"', "cannot write none/lan.pcapng: No such file or directory"),
    ],
)
def test_what_the_file_asks_for_and_cannot_be_had_is_exit_code_1(home: Home, entry: str, said: str) -> None:
    (home.root / "lab.toml").write_text(f"[switch]\n{entry}\n[[endpoint]]\nurl = 'unix://lan.sock'\n")
    check_refused(home, "--config", "lab.toml", code=1, said=said)


ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_configuration_is_utf8_whatever_the_locale(home: Home) -> None:
    (home.root / "lab.toml").write_bytes("# Höhle\n[[endpoint]]\nurl = 'tcp://127.0.0.1:0'\n".encode())
    with home.serve("--config", "lab.toml", env=ASCII_ONLY) as serving:
        assert serving.urls.keys() == {"tcp1"}


def test_paths_are_what_was_written_whatever_the_locale(home: Home) -> None:
    (home.root / "lab.toml").write_bytes("[[endpoint]]\nurl = 'vde://ä.vde'\nmgmt = 'ä.mgmt'\n".encode())
    with home.serve("unix://ö.sock", "unix://%c3%bc.sock", "--config", "lab.toml", env=ASCII_ONLY):
        for socket_ in ("ö.sock", "ü.sock", "ä.vde/ctl", "ä.mgmt"):
            connect(f"unix://{home.root}/{socket_}").close()
        for env in ({}, ASCII_ONLY):
            done = home.run("capture", "-w", "é.pcapng", "--duration", "10ms", env=env)
            assert done.returncode == 0, done.stderr
            (home.root / "é.pcapng").unlink()


def test_the_ready_descriptor_gets_one_line_and_is_closed(home: Home) -> None:
    reader, writer = os.pipe()
    with home.serve("tcp://127.0.0.1:0", "--ready-fd", str(writer), pass_fds=[writer]):
        os.close(writer)
        assert read_to_end(reader) == b"ready\n"


def test_nobody_has_to_read_from_the_ready_descriptor(home: Home) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with home.serve("tcp://127.0.0.1:0", "--ready-fd", str(writer), pass_fds=[writer]) as serving:
        os.close(writer)
        assert home.get("status")["pid"] == serving.pid
        assert serving.stop() == 0


def test_standard_output_as_the_ready_descriptor_stays_open(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0", "--ready-fd", "1") as serving:
        assert serving.process.stdout is not None
        while serving.lines[-2:] != ["ready", "ready"]:
            serving.read_more()
        assert os.readlink(f"/proc/{serving.pid}/fd/1").startswith("pipe:")
        assert serving.stop() == 0


def test_the_log_goes_to_standard_error(home: Home) -> None:
    path = home.root / "lan.sock"
    with home.serve(f"unix://{path}") as serving:
        printed = serving.lines
        with connect(f"unix://{path}"):
            home.get("ports")
        assert serving.stop() == 0
        assert "unix1.1 up" in serving.log
        assert serving.lines == printed


def test_whoever_reads_may_hang_up_after_ready(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0") as serving:
        assert serving.process.stdout is not None
        serving.process.stdout.close()
        connect(serving.urls["tcp1"]).close()
        assert home.get("status")["pid"] == serving.pid


def test_the_working_directory_is_not_where_the_program_comes_from(home: Home) -> None:
    """A test of these tests: the program is the build that is imported here."""
    assert not (home.root / "vswitch").exists()
    assert home.env["PYTHONPATH"].startswith(package_root())
