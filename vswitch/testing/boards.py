"""Kinds of machines that QEMU emulates: processors, and boards with their buses.

Only the standard library is used, as in guest_image.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    """A processor: its `name` is QEMU's and the kernel's. `cpu` is which one, "" for QEMU's own choice."""

    name: str
    debian: str  # what Debian calls it
    board: str  # unless another one is asked for
    console: str  # the serial console of that board
    package: str  # Debian's, that has QEMU for it
    cpu: str = ""


X86_64 = "x86_64"
ARCHES = {
    arch.name: arch
    for arch in (
        Arch(X86_64, "amd64", "q35", "ttyS0", "qemu-system-x86"),
        Arch("aarch64", "arm64", "virt", "ttyAMA0", "qemu-system-arm", cpu="cortex-a57"),
    )
}
WITH_PCI = ("q35", "pc", "virt")  # boards that are known to have it
