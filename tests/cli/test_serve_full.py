"""`serve` when there is nothing left to give: descriptors, and memory."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.program import FRESH, Home, check_refused, connect, is_one_line, rss
from tests.cli.traffic import traffic
from tests.endpoints.kinds import vde_request
from tests.frames import frame, framed, mac
from tests.waiting import until

LIMIT = 64


def limited(limit: int = LIMIT) -> list[str]:
    """What to start a program under so that it may open so many files."""
    return ["/bin/sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh"]


def fill(stack: ExitStack, home: Home, url: str) -> None:
    """Peers come until no more are let in."""
    for _ in range(LIMIT):
        stack.enter_context(connect(url))
    until(lambda: home.get("status")["ports"] > LIMIT // 2, "peers to come in")


def fill_vde(stack: ExitStack, home: Home, directory: Path) -> None:
    for number in range(LIMIT):
        ctl = stack.enter_context(connect(f"unix://{directory}/ctl"))
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sock.bind(f"{home.root}/c{number}")
        ctl.sendall(vde_request(f"{home.root}/c{number}".encode()))
    until(lambda: home.get("status")["ports"] > 8, "clients to come in")


@pytest.mark.parametrize("kind", ["unix", "tcp", "vde"])
def test_without_descriptors_peers_wait_and_all_else_goes_on(home: Home, kind: str) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 4 * LIMIT
    unix, vde = home.root / "lan.sock", home.root / "vde"
    with home.serve(f"unix://{unix}", "tcp://127.0.0.1:0", f"vde://{vde}", under=limited()) as serving:
        with traffic(f"unix://{unix}") as passing, ExitStack() as stack:
            if kind == "vde":
                fill_vde(stack, home, vde)
            else:
                fill(stack, home, serving.urls[f"{kind}1"])
            until(lambda: "accepting pauses" in serving.log, "accepting to pause")
            for _ in range(20):
                assert home.get("status")["failures"] == 0
            assert home.run("ports", "--json").returncode == 0
            passing.check()
            stack.close()
            until(lambda: home.get("status")["ports"] == 2, "the peers to go")
            with connect(serving.urls[f"{kind}1"] if kind != "vde" else f"unix://{vde}/ctl"):
                passing.check()
        assert serving.stop() == 0
    assert "Traceback" not in serving.log
    assert "Errno" not in serving.log
    assert serving.log.count("accepting pauses") == 1


def flood(url: str, megabytes: int) -> None:
    """Frames of 1 KiB to somebody who is not there."""
    burst = framed([frame(mac(9), mac(8), 1024)] * 1024)
    with connect(url) as guest:
        for _ in range(megabytes):
            guest.sendall(burst)


def test_captures_that_nobody_reads_hold_no_more_than_they_may_and_give_it_back(home: Home) -> None:
    lan, memory = f"unix://{home.root}/lan.sock", ("--capture-memory", "8MiB")
    request = b"GET /v1/capture HTTP/1.1\r\nHost: vswitch\r\n\r\n"
    with home.serve(lan, *memory, under=FRESH) as serving, traffic(lan) as passing, ExitStack() as stack:
        flood(lan, 32)  # so that the heap is as it will be
        before = rss(serving.pid)
        for _ in range(60):
            reader = stack.enter_context(connect(f"unix://{home.control()}"))
            reader.sendall(request)
            assert reader.recv(12) == b"HTTP/1.1 200"
        flood(lan, 64)
        passing.check()
        assert rss(serving.pid) < before + 48 * 2**20
        stack.close()
        until(lambda: rss(serving.pid) < before + 10 * 2**20, "memory to be given back")
        passing.check()
        assert home.get("status")["failures"] == 0


def test_a_recording_that_does_not_fit_is_refused_in_a_line(home: Home) -> None:
    check_refused(home, "--record", "60GiB", code=1, said="there is not the memory to record 61,440 MiB; record ")


@pytest.mark.parametrize("limit", [6, 8, 10])
def test_with_too_few_descriptors_to_begin_with_it_says_so_in_a_line(home: Home, limit: int) -> None:
    with home.start("tcp://127.0.0.1:0", under=limited(limit)) as serving:
        assert serving.ended() == 1
        assert is_one_line(serving.error)
        assert "Too many open files" in serving.error
        assert "Errno" not in serving.log
        assert "Traceback" not in serving.log
