"""Which program QEMU is on this machine."""

import os
import shutil

VARIABLE = "VSWITCH_QEMU"
PLACES = ("qemu-kvm", "/usr/libexec/qemu-kvm")  # RHEL's and CentOS's, of the machine's own kind


def find(machine: str = "x86_64") -> str | None:
    """The QEMU that `VSWITCH_QEMU` names, or else one for that kind of machine; None if there is none."""
    if own := os.environ.get(VARIABLE):
        return shutil.which(own)
    return next(filter(None, map(shutil.which, (f"qemu-system-{machine}", *PLACES))), None)


def missing(machine: str = "x86_64", package: str = "qemu-system-x86") -> str:
    """Says in one line that `find` has found none, which Debian has in a package."""
    if own := os.environ.get(VARIABLE):
        return f"{VARIABLE}: {own!r} is no program that can be run; name a QEMU, or leave it out"
    return f"qemu-system-{machine} not found: install the package {package}, or name a QEMU in {VARIABLE}"
