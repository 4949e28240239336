"""Prometheus's metrics: what its own tool accepts, and what the counters say."""

import json
import re
import shutil
from pathlib import Path

import pytest
import trio

from tests.frames import BROADCAST, frame, mac
from tests.needs import require
from tests.peers import TIMEOUT_S, Peer, until
from vswitch import InputError, RefusedError, VSwitch
from vswitch.control.metrics import OF_PORTS, _escaped

SAMPLE = re.compile(r'(\w+)(?:{((?:\w+="(?:[^"\\]|\\.)*",?)*)})? ([0-9.]+)')


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values by name and labels."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = [SAMPLE.fullmatch(line) for line in lines]
    assert all(found), text
    return {(it[1], it[2] or ""): float(it[3]) for it in found if it}


async def test_the_counters_are_there() -> None:
    async with VSwitch("lab") as switch:
        guest = await Peer.plugged_into(switch, name="guest", vlan=10)
        other = await Peer.plugged_into(switch, name="other", vlan=10)
        await guest.send(frame(BROADCAST, mac(1)), frame(BROADCAST, mac(1), tag=20))
        assert await other.receive(1)
        await until(lambda: switch.ports()[0].rx_frames == 2)
        found = samples(await switch.metrics())
        of_guest = 'port="guest",endpoint="guest"'
        assert found["vswitch_port_receive_frames_total", of_guest] == 2
        assert found["vswitch_port_receive_bytes_total", of_guest] == 120
        assert found["vswitch_port_transmit_frames_total", 'port="other",endpoint="other"'] == 1
        assert found["vswitch_port_drops_total", f'{of_guest},reason="vlan"'] == 1
        assert found["vswitch_port_up", of_guest] == 1
        assert found["vswitch_fdb_entries", ""] == 1
        assert found["vswitch_events_total", 'code="up"'] == 2
        assert {f"vswitch_port_{metric.name}" for metric in OF_PORTS} <= {name for name, _ in found}
        [info] = [labels for name, labels in found if name == "vswitch_build_info"]
        assert info.endswith('name="lab"')


async def test_prometheus_has_nothing_to_say_against_them() -> None:
    promtool = shutil.which("promtool")
    require(promtool, "needs promtool (Debian: apt install prometheus)")
    assert promtool is not None
    async with VSwitch() as switch:
        guest = await Peer.plugged_into(switch, name="guest", vlan=10)
        await guest.send(frame(BROADCAST, mac(1), tag=20))
        await until(lambda: switch.ports()[0].rx_frames)
        text = await switch.metrics()
    done = await trio.run_process(
        [promtool, "check", "metrics"], stdin=text.encode(), capture_stdout=True, capture_stderr=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("hostile", ['a"b', "a\\b", "a\nb 1", '"} 1\nfake{x="'])
def test_no_label_ends_before_it_should(hostile: str) -> None:
    assert samples(f'x{{l="{_escaped(hostile)}"}} 1\n')
    assert "\n" not in _escaped(hostile)


async def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    async with VSwitch() as switch:
        known = set(re.findall(r"^# TYPE (\w+)", await switch.metrics(), re.M))
    board = json.loads((Path(__file__).parents[2] / "docs/grafana.json").read_text())
    asked = {
        name for panel in board["panels"] for it in panel["targets"] for name in re.findall(r"vswitch_\w+", it["expr"])
    }
    assert asked
    assert asked <= known


async def get(url: str, path: str) -> bytes:
    host, port = url.split("/")[2].rsplit(":", 1)
    with trio.fail_after(TIMEOUT_S):
        async with await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            data = b""
            while more := await stream.receive_some():
                data += more
    return data


async def test_they_are_served_on_an_address_and_nothing_else_is() -> None:
    async with VSwitch() as switch:
        url = await switch.serve_metrics("127.0.0.1:0")
        head, _, body = (await get(url, "/metrics")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"text/plain; version=0.0.4" in head
        assert samples(body.decode())["vswitch_ports", ""] == 0
        for path in ("/v1/status", "/", "/metrics/"):
            assert (await get(url, path)).startswith(b"HTTP/1.1 404")
        with pytest.raises(RefusedError, match="cannot listen on"):
            await switch.serve_metrics(url.split("/")[2])
        with pytest.raises(InputError, match="'nonsense' is no address; write it like 127"):
            await switch.serve_metrics("nonsense")
        with pytest.raises(InputError, match="is no address"):
            await switch.serve_metrics("127.0.0.1:0?vlan=10")
