"""A machine's state, written and read as QEMU migrates it (docs/devel/migration), with its memory or without."""

from pathlib import Path

import trio

from vswitch.testing.qemu import Qemu, QemuError

POLL_S = 0.01
BANDWIDTH = 1 << 40  # bytes a second: as fast as it goes


async def save(qemu: Qemu, path: Path, *, memory: bool) -> None:
    """Of a machine that stands still. Without `memory`, that is in a file already (x-ignore-shared)."""
    with path.open("wb") as file:
        await _set_memory(qemu, memory)
        await qemu.execute("migrate-set-parameters", **{"max-bandwidth": BANDWIDTH})
        await qemu.give("state", file.fileno())
        await qemu.execute("migrate", uri="fd:state")
        await _done(qemu)


async def load(qemu: Qemu, state: int, *, memory: bool) -> None:
    """Has a QEMU that was started with `-incoming defer` go on from a state, a descriptor that it has inherited."""
    await _set_memory(qemu, memory)
    await qemu.execute("migrate-set-parameters", **{"announce-rounds": 0})  # it has moved from nowhere: no RARP
    await qemu.execute("migrate-incoming", uri=f"fd:{state}")
    await _done(qemu)
    await qemu.execute("cont")


async def _set_memory(qemu: Qemu, memory: bool) -> None:
    wanted = [{"capability": "x-ignore-shared", "state": not memory}]
    await qemu.execute("migrate-set-capabilities", capabilities=wanted)


async def _done(qemu: Qemu) -> None:
    while (found := await qemu.execute("query-migrate")).get("status") != "completed":
        if found.get("status") == "failed":
            raise QemuError(f"its state: {found.get('error-desc', 'QEMU does not say why')}")
        await trio.sleep(POLL_S)
