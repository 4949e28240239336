"""What the endpoints of one switch have to agree on. All raise InputError."""

from collections.abc import Collection, Container, Mapping

from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, MissingError
from vswitch.ports.policy import Policy, goes_with_hub, mac_text
from vswitch.values import endpoint_of


def name_of(wanted: EndpointConfig, taken: Container[str]) -> str:
    """The name that an endpoint asks for, or its kind and the lowest number that is free."""
    if wanted.name is not None:
        if wanted.name in taken:
            raise InputError(f"there is an endpoint {wanted.name!r} already; give this one another name=", "name")
        return wanted.name
    number = 1
    while f"{wanted.scheme}{number}" in taken:
        number += 1
    return f"{wanted.scheme}{number}"


def check_policy(wanted: EndpointConfig, others: Mapping[str, EndpointConfig], *, hub: bool = False) -> None:
    """Whether an endpoint's policy goes with this kind of switch and with the others, by name."""
    if hub and not goes_with_hub(wanted.policy):
        raise InputError(f"{wanted.url}: this switch is a hub, which goes by no VLANs or policies; leave them out")
    for name, other in others.items():
        theirs = other.policy
        if wanted.policy.qinq and theirs.qinq and wanted.policy.tpid != theirs.tpid:
            message = f"{wanted.url}: tpid: all qinq ports have the same; {name} has 0x{theirs.tpid:04x}"
            raise InputError(message, "tpid")
        if taken := wanted.policy.pinned & theirs.pinned:
            mac = mac_text(min(taken)[0])
            raise InputError(f"{wanted.url}: static: {mac} is behind {name} already", "static")


def check_mirror(name: str, endpoints: Mapping[str, EndpointConfig]) -> None:
    """Whether one of the endpoints, if it is a mirror, watches endpoints of theirs, or ports of one."""
    mirror = endpoints[name]
    try:
        check_watched(name, mirror.policy, endpoints)
    except InputError as error:
        raise InputError(f"{mirror.url}: {error}", error.parameter) from None


def check_watched(name: str, policy: Policy, endpoints: Collection[str]) -> None:
    """Whether what a policy mirrors are endpoints, by their names, or ports of one; `name` is the mirror's."""
    for watched in policy.mirror_of:
        if watched == name:
            raise InputError("mirror_of: names the mirror itself; name the ports to watch", "mirror_of")
        if watched not in endpoints and endpoint_of(watched) not in endpoints:
            known = ", ".join(endpoints)
            raise MissingError(f"mirror_of: there is no endpoint {watched!r}; there are {known}", "mirror_of")
