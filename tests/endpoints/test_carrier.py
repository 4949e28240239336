"""qmp=: a guest's QEMU is told when its port goes up or down."""

import json
from pathlib import Path

import pytest
import trio

from tests.peers import TIMEOUT_S, Peer, until
from vswitch import InputError, RefusedError, VSwitch
from vswitch.endpoints import carrier
from vswitch.endpoints.carrier import set_link
from vswitch.endpoints.url import parse


class Qemu:
    """What answers at a QMP socket: `said` are the links that were set, `answer` is given to each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[tuple[str, bool]] = []
        self.greeting = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
        self.answer = b'{"timestamp": {}, "event": "RESUME"}\r\n{"return": {}}\r\n'

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self.path))
            listener.listen()
            task_status.started()
            while True:
                client, _ = await listener.accept()
                await self._talk(trio.SocketStream(client))

    async def _talk(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(self.greeting)
            data = b""
            while more := await stream.receive_some():
                data += more
                while b"\n" in data:
                    line, _, data = data.partition(b"\n")
                    asked = json.loads(line)
                    if asked["execute"] == "set_link":
                        self.said.append((asked["arguments"]["name"], asked["arguments"]["up"]))
                        await stream.send_all(self.answer)
                    else:
                        await stream.send_all(b'{"return": {}}\r\n')


async def test_a_guest_sees_its_port_go_down_and_up(tmp_path: Path) -> None:
    qemu = Qemu(tmp_path / "vm.qmp")
    async with trio.open_nursery() as nursery, VSwitch() as switch:
        await nursery.start(qemu.serve)
        guest = await Peer.plugged_into(switch, name="vm", qmp=str(qemu.path), netdev="lan0")
        switch.policies.set_up("vm", False)
        await until(lambda: qemu.said == [("lan0", False)])
        switch.policies.amend("vm", {"vlan": 10})  # which has nothing to do with it
        switch.policies.set_up("vm", True)
        await until(lambda: qemu.said == [("lan0", False), ("lan0", True)])
        guest.close()
        nursery.cancel_scope.cancel()


async def test_a_new_guest_behind_a_port_that_is_down_is_told(tmp_path: Path) -> None:
    qemu = Qemu(tmp_path / "vm.qmp")
    async with trio.open_nursery() as nursery, VSwitch() as switch:
        await nursery.start(qemu.serve)
        await switch.attach(f"unix://{tmp_path}/vm.sock?single=yes&name=vm&up=no&qmp={qemu.path}")
        for times in (1, 2):
            async with await Peer.connected_to(f"unix://{tmp_path}/vm.sock"):
                await until(lambda times=times: qemu.said == [("net0", False)] * times)  # type: ignore[misc]
        nursery.cancel_scope.cancel()


async def test_what_qemu_does_not_take_at_once_is_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "RETRY_MIN_S", 0.01)
    qemu = Qemu(tmp_path / "vm.qmp")
    qemu.answer = b'{"error": {"class": "GenericError", "desc": "busy"}}\n'
    async with trio.open_nursery() as nursery, VSwitch() as switch:
        await nursery.start(qemu.serve)
        guest = await Peer.plugged_into(switch, name="vm", qmp=str(qemu.path))
        await until(lambda: len(qemu.said) >= 2)
        qemu.answer = b'{"return": {}}\n'
        before = len(qemu.said)
        await until(lambda: len(qemu.said) > before)
        switch.policies.set_up("vm", False)
        await until(lambda: qemu.said[-1] == ("net0", False))
        guest.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("greeting", "answer", "why"),
    [
        (b"{}\n", b'{"error": {"class": "DeviceNotFound", "desc": "no net0"}}\n', "QEMU says: {'class': 'DeviceNot"),
        (b"SSH-2.0-OpenSSH\n", b"", "does not speak QMP"),
        (b"[]\n", b"", "does not speak QMP"),
        (b"[" * 60_000 + b"\n", b"", "does not speak QMP"),
        (b"x" * 100_000, b"", "does not speak QMP"),
        (b"\xff\n", b"", "does not speak QMP"),
        (b"{}\n", b'{"event": 1}\n' * 200, "does not speak QMP"),
    ],
)
async def test_what_is_wrong_at_the_other_end_is_said(tmp_path: Path, greeting: bytes, answer: bytes, why: str) -> None:
    qemu = Qemu(tmp_path / "vm.qmp")
    qemu.greeting, qemu.answer = greeting, answer
    async with trio.open_nursery() as nursery:
        await nursery.start(qemu.serve)
        with pytest.raises(RefusedError) as error:
            await set_link(str(qemu.path), "net0", True)
        assert why in str(error.value)
        nursery.cancel_scope.cancel()


async def test_a_qemu_that_is_not_there_is_an_event(tmp_path: Path) -> None:
    async with VSwitch() as switch:
        guest = await Peer.plugged_into(switch, name="vm", qmp=f"{tmp_path}/vm.qmp")
        switch.policies.set_up("vm", False)
        await until(lambda: any(event.code == "qmp" for event in switch.events.kept()))
        [event] = [event for event in switch.events.kept() if event.code == "qmp"]
        guest.close()
    assert event.text == (
        f"vm: its guest does not see that its port is down: no QEMU answers at {tmp_path}/vm.qmp "
        "(No such file or directory)"
    )


async def test_a_qemu_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "QMP_S", 0.05)
    with trio.socket.socket(trio.socket.AF_UNIX) as listener, trio.fail_after(TIMEOUT_S):
        await listener.bind(f"{tmp_path}/vm.qmp")
        listener.listen()
        with pytest.raises(RefusedError, match="QMP has one client at a time"):
            await set_link(f"{tmp_path}/vm.qmp", "net0", True)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("unix:///tmp/lan.sock?qmp=/tmp/vm.qmp", "qmp: is one guest's"),
        ("unixgram:///tmp/lan.sock?qmp=/tmp/vm.qmp", "add remote="),
        ("unix:///tmp/lan.sock?single=yes&netdev=net1", "netdev goes with qmp"),
        ("unix:///tmp/lan.sock?single=yes&qmp=" + "x" * 108, "107"),
    ],
)
def test_what_does_not_go_together_is_said(url: str, why: str) -> None:
    with pytest.raises(InputError) as error:
        parse(url)
    assert why in str(error.value)
