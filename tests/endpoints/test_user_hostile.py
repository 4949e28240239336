"""Whatever frames a guest sends to the process of a user network: it is the same afterwards, and serves the others."""

import os
import socket
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP, Ether

from tests.endpoints.user_guest import ALL, Guest, child_of
from tests.services import hostile
from vswitch import VSwitch

pytestmark = pytest.mark.usefixtures("libslirp")


async def test_its_process_survives_whatever_a_guest_sends(
    switch: VSwitch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "boot").write_bytes(bytes(5000))
    host, port = hostile.SERVER
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"tcp:{host}:{port}-tcp:127.0.0.1:{server.getsockname()[1]}"
        await switch.attach(f"user://10.0.2.0/24?name=net&restrict=yes&host_access=yes&tftp={tmp_path}&guestfwd={here}")
        evil = await Guest.plugged_into(switch, "evil", hostile.EVIL)
        good = await Guest.plugged_into(switch, "good", "02:aa:bb:cc:dd:ee")
        before = child_of(os.getpid())
        for frames in (hostile.VALID, hostile.some_frames(400)):
            await evil.peer.send(*frames)
            asked = Ether(src="52:54:00:00:00:0f", dst=ALL) / ARP(psrc="10.0.2.9", pdst="10.0.2.2")
            await evil.send(asked)
            while (await evil.receive(ARP))[ARP].pdst != "10.0.2.9":  # it has come so far
                pass
        await good.lease("good")
        await good.ping("10.0.2.2")
    assert child_of(os.getpid()) == before
    assert [text for text in caplog.messages if text.startswith("net:")] == []
    assert [lease.name for lease in switch.user_networks.leases() if lease.port == "good"] == ["good"]
