"""The descriptors that this process has open: what is gone is to leave none."""

import gc
import os


def descriptors(*, before: bool = False) -> dict[str, str]:
    """What each of them is, by number. `before` a test, the garbage that earlier ones have left is collected."""
    if before:
        gc.collect()
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the one that lists them
            continue
    return found
