"""What to write into a libvirt domain for an endpoint: an `<interface>`, or QEMU's own arguments.

libvirt has elements for TCP (`client`, `server`), UDP and multicast, over IPv4 and with numeric addresses, and for
vhost-user. For the rest there is `<qemu:commandline>`. Its multicast guests join where the route to the group goes. It
takes `<mtu>` with vhost-user only, so that a guest whose card has to be told its MTU gets QEMU's arguments elsewhere,
too.
"""

import ipaddress
import os
import socket
from xml.etree import ElementTree

from vswitch.endpoints import inet
from vswitch.endpoints.guests import qemu
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError
from vswitch.ports.policy import remarks

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
ID = "vswitch0"  # libvirt calls its own net0, net1, …
# QEMU makes these devices before libvirt's: without an address they take the slots that libvirt has given away.
PCI_SLOT = "0x10"

_INTERFACE_HINT = "goes into <devices>"
_COMMANDLINE_HINT = (
    "goes into <domain>, which has at most one qemu:commandline; "
    f"if PCI slot {PCI_SLOT} is in use there, give another addr="
)
_MCAST_HINT = (
    "libvirt joins the group where the route to it goes, which is not where this endpoint is: run "
    "'ip route add {group} dev {device}' as root, or serve the group with the iface= of that route"
)
_MEMORY_HINT = (
    "<domain> needs <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>; "
    "QEMU before 8.0 needs KVM, too: <domain type='kvm'>"
)


def xml(config: EndpointConfig, version: qemu.Version, guest: qemu.Guest, mtu: int | None) -> str:
    """The element for a guest of an endpoint, with comments: where it goes, and what to know of the port. `mtu` is what
    its card is told, if anything.

    Raises InputError if nothing of libvirt's or QEMU's plugs in there.
    """
    netdev = qemu.best_netdev(config, version, guest, ID)
    element = _interface(config, guest.mac, mtu)
    hints = [_INTERFACE_HINT]
    if element is None:
        element = _commandline(netdev, guest.mac, mtu)
        hints = [_COMMANDLINE_HINT]
    elif config.scheme == "vhost-user":
        hints.append(_MEMORY_HINT)
    elif config.scheme == "mcast" and _joined_elsewhere(config):
        hints.append(_MCAST_HINT.format(group=config.host, device=_device(config.iface)))
    hints += remarks(config.policy)
    ElementTree.register_namespace("qemu", QEMU_NAMESPACE)
    ElementTree.indent(element)
    text = ElementTree.tostring(element, encoding="unicode")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise InputError("the path has bytes that are no UTF-8, which XML cannot have; use another one")
    return "\n".join([*(f"<!-- {hint} -->" for hint in hints), text])


def _interface(config: EndpointConfig, mac: str, mtu: int | None) -> ElementTree.Element | None:
    """The `<interface>`, or None where libvirt has none that can say all of it."""
    if config.scheme == "vhost-user":
        return _vhost_user_interface(config, mac, mtu)
    return _socket_interface(config, mac) if mtu is None else None


def _vhost_user_interface(config: EndpointConfig, mac: str, mtu: int | None) -> ElementTree.Element:
    """`mode` is QEMU's."""
    interface = ElementTree.Element("interface", type="vhostuser")
    ElementTree.SubElement(interface, "mac", address=mac)
    path, mode = os.path.abspath(config.path), "server" if config.connect else "client"
    source = ElementTree.SubElement(interface, "source", type="unix", path=path, mode=mode)
    if not config.connect:
        ElementTree.SubElement(source, "reconnect", enabled="yes", timeout="1")
    ElementTree.SubElement(interface, "model", type="virtio")
    if mtu is not None:
        ElementTree.SubElement(interface, "mtu", size=str(mtu))
    return interface


def _socket_interface(config: EndpointConfig, mac: str) -> ElementTree.Element | None:
    """`source` is our end, `local` is QEMU's."""
    kind = {"tcp": "server" if config.connect else "client", "udp": "udp", "mcast": "mcast"}.get(config.scheme)
    local = qemu.udp_local(config)
    if kind is None or not _is_ipv4(config.host) or not _is_ipv4(local[0]):
        return None
    interface = ElementTree.Element("interface", type=kind)
    ElementTree.SubElement(interface, "mac", address=mac)
    source = ElementTree.SubElement(interface, "source", address=config.host, port=str(config.port))
    if kind == "udp":
        ElementTree.SubElement(source, "local", address=local[0], port=str(local[1]))
    ElementTree.SubElement(interface, "model", type="virtio")
    return interface


def _commandline(netdev: qemu.Netdev, mac: str, mtu: int | None) -> ElementTree.Element:
    commandline = ElementTree.Element(f"{{{QEMU_NAMESPACE}}}commandline")
    *words, device = qemu.words(netdev, mac, mtu, ID)
    for word in (*words, f"{device},addr={PCI_SLOT}"):
        ElementTree.SubElement(commandline, f"{{{QEMU_NAMESPACE}}}arg", value=word)
    return commandline


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _joined_elsewhere(config: EndpointConfig) -> bool:
    """Whether the route to a group goes through another interface than the endpoint's, or there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((config.host, config.port))  # which sends nothing
        except OSError:
            return True
        return bool(probe.getsockname()[0] != inet.interface_address(config.iface))


def _device(iface: str) -> str:
    """The name of an interface, as far as it can be told."""
    if not iface[0].isdecimal():
        return iface
    return "lo" if inet.is_loopback(iface) else f"<the interface with {iface}>"
