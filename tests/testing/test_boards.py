"""Guests of other processors and boards."""

import shutil

import pytest

from tests.e2e.guest import guest_image
from tests.needs import require
from vswitch import InputError
from vswitch.testing import Kernel, Lan, Nic, QemuError


async def test_an_arm_beside_an_x86(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    guest_image()
    require(shutil.which("qemu-system-aarch64"), "qemu-system-aarch64 not found: install the package qemu-system-arm")
    arm = await lan.guest("arm", arch="aarch64")
    x86 = await lan.guest("x86", board="pc")
    assert (await arm.run("uname -m; hostname")).stdout == "aarch64\narm\n"
    assert (await x86.run("uname -m; ping -c 1 arm")).stdout.startswith("x86_64\n")
    again = await lan.guest("again", arch="aarch64")
    assert (await again.run("grep vswitch.template /proc/cmdline")).ok, "it is a clone"
    ids = [(await guest.run("cat /etc/machine-id /proc/sys/kernel/random/boot_id")).stdout for guest in (arm, again)]
    assert len(set(ids)) == 2
    off_the_bus = await lan.guest("off", arch="aarch64", nics=[Nic(device="virtio-net-device")])
    assert (await off_the_bus.run(f"ping -c 1 {arm.ip}")).ok
    assert "virtio_mmio" in (await off_the_bus.run("readlink -f /sys/class/net/eth0/device")).stdout
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(QemuError, match="qemu-system-aarch64 not found: install the package qemu-system-arm"):
        await lan.guest("gone", arch="aarch64")


async def test_what_cannot_be_is_said(lan: Lan) -> None:
    guest_image()
    with pytest.raises(InputError, match="a: arch is 'pdp11'; there are x86_64, aarch64"):
        await lan.guest("a", arch="pdp11")
    with pytest.raises(InputError, match="a: the tiny guest needs PCI, and microvm is not known to have it"):
        await lan.guest("a", board="microvm")
    with pytest.raises(InputError, match=r"which card does raspi3b take\? say it in nics"):
        await lan.guest("a", image=Kernel("/vmlinuz"), arch="aarch64", board="raspi3b")
    assert lan.machines == {}
