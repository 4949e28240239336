"""`vswitch top`."""

import os
import pty
import re
import subprocess
import termios
from contextlib import suppress

import msgspec
import pytest

from tests.cli.program import PROGRAM, Home, connect
from tests.frames import BROADCAST, frame, framed, mac
from tests.waiting import until
from vswitch.cli.looking.top import ORDERS, rates, short
from vswitch.control.model import PortInfo, Vlan

IDLE = PortInfo(
    name="a",
    endpoint="a",
    url="tcp://127.0.0.1:1",
    peer=None,
    up=True,
    state="forwarding",
    vlan=Vlan(),
    rx_frames=0,
    rx_bytes=0,
    tx_frames=0,
    tx_bytes=0,
    drops={},
    queued_frames=0,
    queued_bytes=0,
    segmented=0,
    checksummed=0,
    macs=0,
    virtio=None,
)


def test_rates_are_what_came_since_the_last_look_a_second() -> None:
    then = msgspec.structs.replace(IDLE, rx_frames=100, rx_bytes=6000, drops={"vlan": 1})
    now = msgspec.structs.replace(IDLE, rx_frames=120, rx_bytes=7200, drops={"vlan": 2, "sticky": 10})
    [found] = rates([then], [now], 2.0)
    assert (found.rx_frames, found.rx_bits, found.tx_frames) == (10, 4800, 0)
    assert (found.drops, found.main_reason) == (5.5, "sticky")


def test_a_port_that_is_new_did_nothing_yet() -> None:
    busy = msgspec.structs.replace(IDLE, rx_frames=100, drops={"vlan": 1})
    assert [(it.rx_frames, it.drops, it.main_reason) for it in rates([], [busy], 1.0)] == [(0, 0, "-")]
    assert [(it.rx_frames, it.drops) for it in rates([busy], [IDLE], 1.0)] == [(0, 0)]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.4, "0"), (950, "950"), (999.6, "1.0k"), (1234, "1.2k"), (34_000_000, "34M"), (2.5e15, "2500T")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize("sort", ORDERS)
def test_ports_are_sorted(sort: str) -> None:
    field = {"rx": "rx_bytes", "tx": "tx_bytes", "queue": "queued_bytes", "macs": "macs"}.get(sort)
    then = [msgspec.structs.replace(IDLE, name=name) for name in "abc"]
    now = [
        msgspec.structs.replace(port, drops={"vlan": amount}, **({field: amount} if field else {}))
        for port, amount in zip(then, (1, 3, 2), strict=True)
    ]
    found = sorted(rates(then, now, 1.0), key=ORDERS[sort].by)
    assert [it.port.name for it in found] == (["a", "b", "c"] if sort == "name" else ["b", "c", "a"])


def test_in_a_pipe_it_is_a_table(home: Home) -> None:
    with home.serve(f"unix://{home.root}/lan.sock?name=lab") as serving, connect(serving.urls["lab"]) as guest:
        guest.sendall(framed([frame(BROADCAST, mac(1))]))
        until(lambda: home.get("ports")[0]["rx_frames"], "it has come in")
        done = home.run("top", "--interval", "100ms", "--count", "2")
        assert (done.returncode, done.stderr) == (0, "")
        heads = [line.split() for line in done.stdout.splitlines()]
        assert [words[0] for words in heads] == ["PORT", "lab.1", "PORT", "lab.1"]
        assert heads[1][-2:] == ["1", "-"]  # MACs, and no drops
        for wrong, why in (("10", "--interval: '10'"), ("1ms", "--interval: 1ms is out of range; 0.1s to 3600s")):
            refused = home.run("top", "--interval", wrong)
            assert (refused.returncode, refused.stdout) == (2, "")
            assert why in refused.stderr


def test_on_a_terminal_of_80_columns_keys_sort_and_end_it(home: Home) -> None:
    primary, secondary = pty.openpty()
    termios.tcsetwinsize(secondary, (24, 80))
    with home.serve(f"unix://{home.root}/lan.sock?name=lab") as serving, connect(serving.urls["lab"]):
        before = termios.tcgetattr(secondary)
        with subprocess.Popen(
            [*PROGRAM, "top", "--interval", "100ms"],
            env=home.env | {"TERM": "xterm-256color"},
            cwd=home.root,
            stdin=secondary,
            stdout=secondary,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            shown = b""
            try:
                for key, sign in (("", b"by name"), ("r", b"by rx"), ("q", b"")):
                    os.write(primary, key.encode())
                    while sign and sign not in shown:
                        shown += os.read(primary, 65536)
                assert process.wait(20) == 0
            finally:
                process.kill()
            assert process.stderr is not None
            assert process.stderr.read() == b""
        assert termios.tcgetattr(secondary) == before
        os.close(secondary)
        with suppress(OSError):
            shown += os.read(primary, 65536)
    os.close(primary)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode().replace("\x1b[H", "\n"))
    assert "RX BIT/S" in text
    assert max(map(len, re.split(r"[\r\n]+", text))) <= 80


def test_a_signal_leaves_the_terminal_as_it_was(home: Home) -> None:
    primary, secondary = pty.openpty()
    before = termios.tcgetattr(secondary)
    with (
        home.serve(f"unix://{home.root}/lan.sock"),
        subprocess.Popen(
            [*PROGRAM, "top"], env=home.env, cwd=home.root, stdin=secondary, stdout=secondary, start_new_session=True
        ) as process,
    ):
        shown = b""
        while b"by name" not in shown:
            shown += os.read(primary, 65536)
        process.terminate()
        assert process.wait(20) == 128 + 15
    assert termios.tcgetattr(secondary) == before
    assert b"\x1b[?1049l" in os.read(primary, 65536)
    os.close(secondary)
    os.close(primary)
