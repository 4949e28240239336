"""What a switch says of its ports beside forwarding: that what a guest sends can never be answered."""

import pytest

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, until
from vswitch import VSwitch
from vswitch.dataplane.drops import BAD_SOURCE
from vswitch.endpoints import forwarding
from vswitch.endpoints.policy import Policy

FROM_NOBODY = frame(BROADCAST, 0x0100_5E00_0001)


async def test_a_port_whose_guest_cannot_be_answered_is_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "LOOK_PERIOD_S", 0.001)
    async with VSwitch() as switch:
        wrong = await Peer.plugged_into(switch, name="wrong")
        open_to_all = await Peer.plugged_into(switch, name="any", sources="any")
        right = await Peer.plugged_into(switch, name="right")
        await open_to_all.send(FROM_NOBODY)
        assert await right.receive(1) == [FROM_NOBODY]
        await wrong.send(FROM_NOBODY, frame(BROADCAST, 0))
        await until(lambda: "bad_source" in caplog.text)
        await wrong.send(FROM_NOBODY, frame(BROADCAST, mac(1)))
        assert await right.receive(1) == [frame(BROADCAST, mac(1))]
        assert next(port for port in switch.ports() if port.name == "wrong").drops == {"bad_source": 3}
        looked = [port for port in switch._ports if port.port.drops[BAD_SOURCE] > 0 and not port.warned]
        assert looked == []
        switch.set_policy("wrong", Policy(sources="any"))
        await wrong.send(FROM_NOBODY)
        assert await right.receive(1) == [FROM_NOBODY]
        said = [record.getMessage() for record in caplog.records if "bad_source" in record.getMessage()]
        assert said == [
            "wrong: drops what comes from a group address or zero, which can never be answered (bad_source); "
            "give the guest another address, or the port sources=any"
        ]
