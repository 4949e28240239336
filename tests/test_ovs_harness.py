"""The harness of Open vSwitch by itself, so that a disagreement with it elsewhere is not about the harness."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.frames import BROADCAST, frame, mac
from tests.ovs import OvsError, open_vswitch

A, B, C = mac(1), mac(2), mac(3)


def test_each_port_sends_by_its_settings() -> None:
    ports = {
        "transparent": "",
        "access": "tag=10",
        "trunk": "vlan_mode=trunk trunks=10,20",
        "native": "vlan_mode=native-untagged tag=10 trunks=20",
        "other": "tag=20",
    }
    untagged, ten, twenty = (frame(BROADCAST, A, tag=tag, payload=b"x" * 60) for tag in (None, 10, 20))
    with open_vswitch(ports) as ovs:
        assert ovs.send("access", untagged) == {"transparent": ten, "trunk": ten, "native": untagged}
        assert ovs.send("access", ten) == {}
        assert ovs.send("trunk", twenty) == {"transparent": twenty, "native": twenty, "other": untagged}
        assert ovs.send("transparent", untagged) == {}

        ovs.set_port("other", "tag=10")
        assert ovs.send("other", untagged) == {
            "transparent": ten,
            "access": untagged,
            "trunk": ten,
            "native": untagged,
        }


def test_options() -> None:
    bpdu = frame(0x0180_C200_0000, A)
    long = frame(BROADCAST, B, 9014)
    ports = {"a": "", "b": ""}
    with open_vswitch(ports) as ovs:
        assert ovs.send("a", bpdu) == {}
        assert ovs.send("a", long) == {"b": long}
    with open_vswitch(ports, forward_bpdu=True, table_size=10) as ovs:
        assert ovs.send("a", bpdu) == {"b": bpdu}
        for number in range(20):
            ovs.send("b", frame(BROADCAST, mac(number)))
        assert ovs.table() == {(0, mac(number), "b") for number in range(10, 20)}

    doubly_tagged = frame(BROADCAST, A, tag=10, payload=b"").replace(b"\x88\xb5", bytes.fromhex("81000014 88b5"))
    for limit, sent in ((1, {"b"}), (2, set())):
        with open_vswitch({"a": "", "b": "tag=10"}, vlan_limit=limit) as ovs:
            assert ovs.send("a", doubly_tagged).keys() == sent


def test_only_passing_time_ends_entries() -> None:
    with open_vswitch({"a": "", "b": ""}, ageing_s=20) as ovs:
        ovs.send("a", frame(BROADCAST, A))
        ovs.pass_time(10)
        ovs.send("b", frame(A, B))
        time.sleep(1.1)
        ovs.pass_time(9)
        assert ovs.table() == {(0, A, "a"), (0, B, "b")}
        ovs.pass_time(1)
        assert ovs.table() == {(0, B, "b")}
        ovs.forget()
        assert ovs.table() == set()


def test_every_frame_is_answered_for_by_itself_and_in_order() -> None:
    chance = random.Random(1)
    names = [f"p{number}" for number in range(6)]
    where: dict[int, str] = {}
    with open_vswitch(dict.fromkeys(names, "")) as ovs:
        for number in range(3000):
            port = chance.choice(names)
            source, target = chance.choices(range(30), k=2)
            sent = frame(mac(target), mac(source), payload=b"%d" % number)
            where[source] = port
            to = {where[target]} if target in where else set(names)
            assert ovs.send(port, sent) == dict.fromkeys(to - {port}, sent)
        assert ovs.table() == {(0, mac(source), port) for source, port in where.items()}


def test_refusal_and_death_are_told() -> None:
    with pytest.raises(OvsError, match="5000 is not in the valid range"), open_vswitch({"a": "tag=5000"}):
        pass
    with pytest.raises(OvsError) as told, open_vswitch({"a": ""}) as ovs:  # noqa: PT012
        with pytest.raises(OvsError, match="no such dummy netdev"):
            ovs.send("nonsense", frame(BROADCAST, A))
        ovs.process.kill()
        ovs.send("a", frame(BROADCAST, A))
    assert "bridge br0: added interface a" in told.value.__notes__[0]


def test_switch_does_not_outlive_a_killed_test(tmp_path: Path) -> None:
    code = """if True:
        import signal
        from tests.ovs import open_vswitch

        with open_vswitch({"a": ""}) as ovs:
            print(ovs.process.pid, flush=True)
            signal.pause()
    """
    root = Path(__file__).parents[1]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment, stdout=subprocess.PIPE) as tester:
        assert tester.stdout is not None
        switch = os.pidfd_open(int(tester.stdout.readline()))
        tester.kill()
    try:
        ended, _, _ = select.select([switch], [], [], 10)
        if not ended:
            signal.pidfd_send_signal(switch, signal.SIGKILL)
        assert ended
    finally:
        os.close(switch)
