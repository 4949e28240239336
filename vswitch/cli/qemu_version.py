"""Which QEMU the lines to paste are for: what somebody says, or the one on this machine."""

import platform
import re
import subprocess
from contextlib import suppress

from vswitch.endpoints.guests import qemu, qemu_program
from vswitch.errors import InputError

ASSUMED: qemu.Version = (7, 2)


def parse(text: str) -> qemu.Version:
    """A version as QEMU says it. Raises InputError."""
    match = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})(\.[0-9]{1,3})*", text)
    if match is None:
        raise InputError(f"{text!r} is not a version of QEMU; write it like 7.2 or 9.2.0")
    return int(match[1]), int(match[2])


class QemuVersion:
    """Asks the QEMU on this machine for its version, while other things are done."""

    def __init__(self) -> None:
        found = qemu_program.find(platform.machine()) or qemu_program.find()
        self._process: subprocess.Popen[bytes] | None = None
        if found:
            with suppress(OSError):
                self._process = subprocess.Popen(
                    [found, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )

    def get(self, timeout_s: float) -> qemu.Version:
        """(major, minor); a usual one if there is no QEMU or it does not say in time."""
        if self._process is None:
            return ASSUMED
        with self._process as process:
            try:
                said, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                return ASSUMED
        match = re.search(rb"version (\d+)\.(\d+)", said)
        return (int(match[1]), int(match[2])) if match else ASSUMED
