"""A guest has a power cut and comes back, another one's cable is pulled, and a port flaps.

What one learns: a fault lasts as long as its `async with` block. A guest that dies of itself fails the test; one that
the test has crashed does not, and has booted anew when the block has ended, with nothing in its memory of before.
"""

from vswitch.testing import Lan


async def test_a_guest_crashes_and_comes_back(lan: Lan) -> None:
    host = await lan.host("host", ip="10.0.0.9")
    guest = await lan.guest("guest")
    await guest.put(b"kept in memory", "/tmp/note")
    async with guest.crash():
        assert not await host.ping(guest.ip)
    assert await host.ping(guest.ip)
    assert not (await guest.run("cat /tmp/note")).ok

    await guest.set_link(False)
    await guest.wait_for("! grep 1 /sys/class/net/eth0/carrier")
    await guest.set_link(True)
    await guest.wait_for("grep 1 /sys/class/net/eth0/carrier")
    assert await host.ping(guest.ip)

    async with lan.flap(guest, down=0.5, up=0.5):
        while await host.ping(guest.ip, timeout=0.1):
            pass
        while not await host.ping(guest.ip, timeout=0.1):
            pass
    assert await host.ping(guest.ip)
