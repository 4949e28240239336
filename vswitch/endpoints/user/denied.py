"""What is said of a guest that may not reach something outside, and of the rule that would let it."""

from collections.abc import Iterable
from contextlib import suppress

from vswitch.endpoints.user import egress
from vswitch.endpoints.user.child import Denial
from vswitch.endpoints.user.egress import Rule
from vswitch.errors import InputError


def text(denial: Denial, deny: Iterable[Rule]) -> str:
    """Of what the network's process has said; nothing if it is about a rule that there is not, or no more."""
    if denial.rule and denial.rule not in map(str, deny):
        return ""
    why = f"deny={denial.rule}" if denial.rule else f"no allow= names that{_advice(denial)}"
    return f"may not {_wanted(denial)}: {why}"


def _wanted(denial: Denial) -> str:
    if denial.protocol == "dns":
        return f"look up {denial.name}"
    where = f"{denial.name} ({denial.ip})" if denial.name else denial.ip
    return f"reach {where} by {denial.protocol}" + (f", port {denial.port}" if denial.port else "")


def _advice(denial: Denial) -> str:
    """None for a name that no rule can be about: what a guest writes might mean much more."""
    rule = _allowing(denial)
    with suppress(InputError):
        if egress.read(str(rule)) == rule:
            return f"; add allow={rule} if it may"
    return ""


def _allowing(denial: Denial) -> Rule:
    if denial.protocol == "dns":
        return Rule(name=denial.name)
    ports = (denial.port, denial.port) if denial.port else None
    network = "" if denial.name else denial.ip
    return Rule("" if denial.protocol == "ip" else denial.protocol, network, denial.name, ports)
