"""A real QEMU takes its guest's carrier away with the port."""

from pathlib import Path

from vswitch.testing import Guest, Lan


async def until_carrier_is(guest: Guest, state: str) -> None:
    """Wait, in the guest, until its card says so."""
    (await guest.run(f'until [ "$(cat /sys/class/net/eth0/operstate)" = {state} ]; do sleep 0.02; done')).check()


async def test_a_guest_loses_its_carrier_with_its_port(lan: Lan, tmp_path: Path) -> None:
    qmp = tmp_path / "vm.qmp"
    a = await lan.guest("a", arguments=("-qmp", f"unix:{qmp},server=on,wait=off"), qmp=str(qmp))
    await until_carrier_is(a, "up")
    lan.switch.policies.set_up("a", False)
    await until_carrier_is(a, "down")
    lan.switch.policies.set_up("a", True)
    await until_carrier_is(a, "up")
