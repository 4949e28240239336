"""The descriptors that this process has open: what is gone is to leave none."""

import os


def descriptors() -> dict[str, str]:
    """What each of them is, by number."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the one that lists them
            continue
    return found


def opened_since(before: dict[str, str]) -> dict[str, str]:
    """Those that were not there before. Some of before may be gone: garbage of other tests is collected at any time."""
    return {number: what for number, what in descriptors().items() if before.get(number) != what}
