"""Addresses and bridges of this machine's interfaces, by rtnetlink(7).

pyroute2 takes a third of a second to load, so it is loaded when one of these is called. They block: call
them in a thread.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any


def addresses(name: str) -> set[IPv4Interface | IPv6Interface]:
    """Those that an interface has. Raises OSError, as all of these do."""
    with _netlink() as netlink:
        found = netlink.get_addr(index=_index(name))
        # Of a link with two ends, IFA_ADDRESS is the other one's.
        texts = [(each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS"), each["prefixlen"]) for each in found]
        return {ip_interface(f"{address}/{length}") for address, length in texts}


def add_address(name: str, address: IPv4Interface | IPv6Interface) -> None:
    with _netlink() as netlink:
        index = _index(name)
        netlink.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)


def master(name: str) -> str:
    """What an interface is a port of; empty if it is of nothing."""
    with _netlink() as netlink:
        (link,) = netlink.get_links(_index(name))
        index = link.get_attr("IFLA_MASTER")
    return socket.if_indextoname(index) if index else ""


def set_master(name: str, bridge: str) -> None:
    with _netlink() as netlink:
        netlink.link("set", index=_index(name), master=_index(bridge))


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:  # which says no number
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None


@contextmanager
def _netlink() -> Iterator[Any]:
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None
