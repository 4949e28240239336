"""`vswitch events`."""

import json
import socket
import subprocess
import sys

import pytest

from tests.cli.program import PROGRAM, Home, connect
from tests.frames import BROADCAST, frame, framed
from tests.waiting import until

QEMU_MAC = 0x5254_0012_3456


def test_two_guests_with_qemus_default_address_are_told_of(home: Home) -> None:
    with home.serve(f"unix://{home.root}/lan.sock?name=lab") as serving:
        lab = serving.urls["lab"]
        with connect(lab) as one, connect(lab) as two:
            until(lambda: len(home.get("ports")) == 2, "both are plugged in")
            for guest in (one, two, one, two):
                guest.sendall(framed([frame(BROADCAST, QEMU_MAC)]))
                other = two if guest is one else one
                other.recv(65536)
            until(lambda: "duplicate_mac" in home.run("events").stdout, "the event is there")
            [line] = home.run("events", "--code", "duplicate_mac").stdout.splitlines()
            assert "duplicate_mac: 52:54:00:12:34:56 moves between lab.1, lab.2" in line
            [event] = home.ask("events", "--code", "duplicate_mac")
            assert (event["code"], event["mac"]) == ("duplicate_mac", "52:54:00:12:34:56")
            assert event["ports"] == ["lab.1", "lab.2"]
            assert event["text"] in line
            serving.wait_said(event["text"])


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_events_are_followed_until_the_switch_ends(home: Home, as_json: bool) -> None:
    with home.serve(f"unix://{home.root}/lan.sock?name=lab") as serving:
        with connect(serving.urls["lab"]):
            serving.wait_said("lab.1 up")
        command = [sys.executable, *PROGRAM[1:], "events", "--follow", *(["--json"] if as_json else [])]
        with subprocess.Popen(
            command, env=home.env, cwd=home.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as follower:
            assert follower.stdout is not None
            seen = [follower.stdout.readline(), follower.stdout.readline()]
            with connect(serving.urls["lab"]):
                seen.append(follower.stdout.readline())
            serving.stop()
            rest, error = follower.communicate(timeout=20)
            assert follower.returncode == 1
        assert error == "vswitch: the switch has ended\n"
        texts = [json.loads(line)["code"] for line in seen] if as_json else [line.split()[1][:-1] for line in seen]
        assert texts == ["up", "down", "up"]
        assert rest.count("\n") <= 2


def test_a_code_that_there_is_not_is_refused(home: Home) -> None:
    done = home.run("events", "--code", "lop")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vswitch: there is no event 'lop'; did you mean 'loop'?\n"


def test_a_loop_is_shown_and_what_to_do(home: Home) -> None:
    """One group, joined twice: before anything is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        group = f"mcast://239.255.77.1:{free.getsockname()[1]}"
    with home.serve(f"{group}?name=one", f"{group}?name=two"):
        until(lambda: "two   blocked" in home.run("ports", "--wide").stdout, "the newer one is blocked")
        [line] = home.run("events", "--code", "loop").stdout.splitlines()
        assert "two is blocked: what is sent by " in line
        assert "take one of the links out" in line
        assert [port["state"] for port in home.ask("ports")] == ["forwarding", "blocked"]
        assert (
            "dropped (loop): the port is blocked"
            in home.run("trace", "two", "52:54:00:00:00:01 > broadcast arp").stdout
        )
