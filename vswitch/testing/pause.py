"""A test that has failed, or wants to be looked at, stands still, and its LAN goes on.

Only the standard library is used: the plugin is loaded wherever vswitch is installed.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

# What gives the terminal back while somebody is asked; pytest's plugin has it stop capturing.
at_terminal: Callable[[], AbstractContextManager[object]] = nullcontext

WHY = "the test stands still"


def greeting(why: str, how: str, example: str) -> str:
    """What is said before somebody is asked."""
    return f"\n{why}; its LAN goes on:\n\n{how}\n\nEnter goes on. Or type Python, as in: {example}"


def how_to_look(name: str, guests: Sequence[tuple[str, str]]) -> str:
    """Lines to paste, for a LAN that others can come into; `guests` are names, each with the path of its QMP."""
    lines = [
        f"  vswitch ports --name {name}        # macs, flows, events, trace, …",
        f"  vswitch capture --name {name} -w - | wireshark -k -i -",
    ]
    lines += [f"  vswitch console --name {name} {guest}" for guest, _ in guests]
    lines += [f"  {path}        # {guest}'s QMP, as for qmp-shell" for guest, path in guests]
    return "\n".join(lines)
