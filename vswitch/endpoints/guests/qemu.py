"""What to write on QEMU's side of an endpoint: the `-netdev … -device …` arguments of a guest, and what else it takes.

QEMU 7.2 brought the `stream` and `dgram` netdevs; `stream` reconnects with `reconnect=` (seconds) from 8.0 to 9.1
and with `reconnect-ms=` from 9.2. The `socket` netdev is understood by every QEMU, but knows IPv4 only and no unix
sockets, and never connects again. `dgram` knows IPv4 only, too. What is local for QEMU is remote for us.

The `vhost-user` netdev speaks by a chardev, which may reconnect in any version, and takes memory that is shared. Before
QEMU 8.0, a card with MSI-X has it crash without KVM (hw/virtio/virtio-pci.c, virtio_pci_set_guest_notifiers: it unmasks
vectors by an irqfd that is not there).
"""

import hashlib
import os
import re
import shlex
from collections.abc import Collection, Iterable
from typing import NamedTuple

from vswitch.endpoints import inet
from vswitch.endpoints.interface.options import InterfaceOptions
from vswitch.endpoints.tunnel.options import TunnelOptions
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError
from vswitch.ports.policy import MTU_DEFAULT, Policy
from vswitch.values import check_unix_path

Version = tuple[int, int]

ANY_VERSION: Version = (0, 0)
STREAM_SINCE: Version = (7, 2)
DGRAM_SINCE: Version = (7, 2)
RECONNECT_SINCE: Version = (8, 0)
RECONNECT_MS_SINCE: Version = (9, 2)
VHOST_USER_SINCE: Version = (5, 0)  # which has -machine memory-backend=
MSI_X_SINCE: Version = (8, 0)  # for vhost-user without KVM

ID = "net0"
MEMORY_DEFAULT = "1G"  # of a guest that has to say it twice

MTU_MIN = 68  # a driver takes no smaller one from its card (virtio 1.2, 5.1.4.1)


class Guest(NamedTuple):
    """One NIC of a guest: its address, and what to call files of its own."""

    mac: str
    label: str


class Netdev(NamedTuple):
    """What comes after `-netdev`, and which QEMU was the first to understand it.

    `companions` are arguments that go with it, `card` is what its device is told, and `notes` are what a person is.
    """

    text: str
    since: Version
    companions: tuple[str, ...] = ()
    card: str = ""
    notes: tuple[str, ...] = ()


def named_guest(name: str) -> Guest:
    """The guest of that name: the same address wherever it is plugged in. Raises InputError."""
    if not name.strip() or not name.isprintable():
        raise InputError(f"{name!r} cannot be a guest's name; use letters, digits and signs that can be printed")
    return Guest(guest_mac(name), name.replace("%", "%25").replace("/", "%2F"))


def unnamed_guest(mac: str) -> Guest:
    """A guest that is only known by an address that no other has."""
    return Guest(mac, mac[9:].replace(":", ""))


def guest_mac(*identity: str) -> str:
    """A stable address under QEMU's own prefix, derived from names."""
    digest = hashlib.sha256("\0".join(identity).encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def next_mac(choices: Iterable[str], given: Collection[str]) -> str:
    """The first that was not given away yet, or else the one that was longest ago; `given` has the last one last."""
    turns = {mac: turn for turn, mac in enumerate(given)}
    return min(choices, key=lambda mac: turns.get(mac, -1))


def host_mtu(policy: Policy, beside: Iterable[EndpointConfig] = ()) -> int | None:
    """The MTU that a card has to be told; None if it need not be, or cannot. `beside` are the switch's endpoints.

    It is that of a user network on the switch, or what the port lets through if that is less. A limit of the port
    beyond the default is not told: it is no reason for a guest to send its neighbours more than they expect.
    """
    networks = (config.user.mtu for config in beside if config.scheme == "user")
    mtu = min(policy.mtu, min(networks, default=MTU_DEFAULT))
    return mtu if mtu >= MTU_MIN and mtu != MTU_DEFAULT else None


def netdevs(config: EndpointConfig, version: Version, guest: Guest, id: str = ID) -> list[Netdev]:
    """The netdevs that meet `config`, best first for a QEMU of `version`.

    Raises InputError, which says what does plug in there, if it is no QEMU, or not by an argument we can know.
    """
    if config.tls is not None:
        raise InputError(
            "is TLS, which no netdev of QEMU's has: another vswitch plugs in there; have another endpoint for guests"
        )
    if config.scheme == "vhost-user":
        return [vhost_user_netdev(config, version, id)]
    found = [
        (stream_netdev(config, max(version, STREAM_SINCE), id), STREAM_SINCE),
        (dgram_netdev(config, guest, id), DGRAM_SINCE),
        (socket_netdev(config, id), ANY_VERSION),
        (vde_netdev(config, id), ANY_VERSION),
        (l2tpv3_netdev(config, id), ANY_VERSION),
    ]
    choices = [Netdev(text, since) for text, since in found if text is not None]
    if not choices:
        raise InputError(_instead(config))
    return sorted(choices, key=lambda netdev: netdev.since > version)


def best_netdev(config: EndpointConfig, version: Version, guest: Guest, id: str = ID) -> Netdev:
    """The netdev that meets `config` and that a QEMU of `version` understands. Raises InputError if there is none."""
    best = netdevs(config, version, guest, id)[0]
    if best.since > version:
        raise InputError(
            f"QEMU {_text(version)} has no netdev for it; use QEMU {_text(best.since)} or newer, or a tcp:// endpoint"
        )
    return best


def stream_netdev(config: EndpointConfig, version: Version, id: str = ID) -> str | None:
    """The `stream` netdev that meets `config`, or None where there is none."""
    if config.scheme not in ("tcp", "unix") or version < STREAM_SINCE:
        return None
    parts = [f"stream,id={id},server={'on' if config.connect else 'off'}"]
    if not config.connect and version >= RECONNECT_SINCE:
        parts.append(_reconnect(version))
    if config.scheme == "unix":
        parts.append(_unix("addr", config.path))
    else:
        parts.append(_inet("addr", config.host, config.port))
    return ",".join(parts)


def dgram_netdev(config: EndpointConfig, guest: Guest, id: str = ID) -> str | None:
    """The `dgram` netdev that meets `config`, or None where there is none. Raises InputError if a path is too long."""
    start = f"dgram,id={id}"
    if config.scheme == "mcast":
        group = _inet("remote", config.host, config.port)
        address = inet.interface_address(config.iface)
        # QEMU wants a local port and does not use it: it binds the group's.
        return f"{start},{group}" if address is None else f"{start},{_inet('local', address, config.port)},{group}"
    if config.scheme == "unixgram":
        path = config.remote_text or check_unix_path(f"{os.path.abspath(config.path)}.{guest.label}")
        return f"{start},{_unix('local', path)},{_unix('remote', config.path)}"
    if config.scheme == "udp" and not _is_ipv6(config):
        return f"{start},{_inet('local', *udp_local(config))},{_inet('remote', config.host, config.port)}"
    return None


def socket_netdev(config: EndpointConfig, id: str = ID) -> str | None:
    """The `socket` netdev that meets `config`, or None where there is none."""
    there = f"{config.host}:{config.port}"
    if config.scheme == "tcp" and not _is_ipv6(config):
        return f"socket,id={id},{'listen' if config.connect else 'connect'}={there}"
    if config.scheme == "mcast":
        address = inet.interface_address(config.iface)
        return f"socket,id={id},mcast={there}" + (f",localaddr={address}" if address else "")
    if config.scheme == "udp" and not _is_ipv6(config):
        host, port = udp_local(config)
        return f"socket,id={id},udp={there},localaddr={host}:{port}"
    return None


def vde_netdev(config: EndpointConfig, id: str = ID) -> str | None:
    """The `vde` netdev that meets `config`, or None where there is none."""
    if config.scheme != "vde" or config.connect:
        return None
    return f"vde,id={id},sock={_escaped(os.path.abspath(config.path))}"


def l2tpv3_netdev(config: EndpointConfig, id: str = ID) -> str | None:
    """The `l2tpv3` netdev that meets `config`, or None where there is none (QEMU net/l2tpv3.c)."""
    options = config.tunnel
    if config.scheme != "l2tpv3" or not isinstance(config.remote, tuple) or not qemu_has_cookies(options):
        return None
    parts = [f"l2tpv3,id={id}", f"src={_escaped(config.remote[0])}", f"dst={_escaped(config.host)}"]
    if options.udp:
        parts += ["udp=on", f"srcport={config.remote[1]}", f"dstport={config.port}"]
    if _is_ipv6(config):
        parts.append("ipv6=on")
    parts += [f"txsession={options.rxsession or options.session}", f"rxsession={options.session}"]
    if options.txcookie:
        parts += [f"txcookie=0x{options.rxcookie}", f"rxcookie=0x{options.txcookie}"]
        if len(options.txcookie) == 16:
            parts.append("cookie64=on")  # off means the same
    if options.counter or options.pincounter:
        parts.append("counter=on")
    if options.pincounter:
        parts.append("pincounter=on")
    if options.offset:
        parts.append(f"offset={options.offset}")
    return ",".join(parts)


def vhost_user_netdev(config: EndpointConfig, version: Version, id: str = ID) -> Netdev:
    """The `vhost-user` netdev that meets `config` (QEMU docs/interop/vhost-user.rst, net/vhost-user.c)."""
    ends = "server=on,wait=off" if config.connect else _reconnect(version)
    chardev = f"socket,id=vhost-{id},path={_escaped(os.path.abspath(config.path))},{ends}"
    memory = f"memory-backend-memfd,id=ram,share=on,size={MEMORY_DEFAULT}"
    notes = [f"-m and size= are both the guest's memory: change {MEMORY_DEFAULT} in both places"]
    if version < MSI_X_SINCE:
        notes.append(
            f"vectors=0: without, QEMU before {_text(MSI_X_SINCE)} crashes unless it has KVM; then leave it out"
        )
    return Netdev(
        f"vhost-user,id={id},chardev=vhost-{id}",
        VHOST_USER_SINCE,
        ("-m", MEMORY_DEFAULT, "-object", memory, "-machine", "memory-backend=ram", "-chardev", chardev),
        ",vectors=0" if version < MSI_X_SINCE else "",
        tuple(notes),
    )


def qemu_has_cookies(options: TunnelOptions) -> bool:
    """Whether QEMU can have such cookies: one each way of the same length, or none."""
    return len(options.txcookie) == len(options.rxcookie)


def udp_local(config: EndpointConfig) -> tuple[str, int]:
    """Where a guest of a udp:// endpoint binds: a port of its own if we take any, so that each gets another."""
    if isinstance(config.remote, tuple):
        return config.remote
    loopback = config.host.startswith("127.") or config.host == "localhost"
    return "127.0.0.1" if loopback else "0.0.0.0", 0


def words(netdev: Netdev, mac: str, mtu: int | None = None, id: str = ID) -> list[str]:
    """The arguments, one by one; the last one is the device."""
    device = f"virtio-net-pci,netdev={id},mac={mac}{netdev.card}"
    mtu_told = "" if mtu is None else f",host_mtu={mtu}"
    return [*netdev.companions, "-netdev", netdev.text, "-device", device + mtu_told]


def arguments(netdev: Netdev, mac: str, mtu: int | None = None) -> str:
    """The arguments to paste into a shell."""
    return " ".join(_shell_word(word) for word in words(netdev, mac, mtu))


def _instead(config: EndpointConfig) -> str:
    """What plugs in where no argument of QEMU's can be told."""
    if config.scheme == "vde":
        sock = _escaped(os.path.abspath(config.path))
        return f"is plugged into the VDE switch there; a guest joins that switch with -netdev vde,id={ID},sock={sock}"
    if config.scheme == "tap":
        return _interface(config.path, config.tap)
    if config.scheme == "vxlan":
        return f"is the VXLAN segment {config.tunnel.vni}; hosts join it with ip link add vxlan0 type vxlan id ..., too"
    if config.scheme == "l2tpv3":
        return "QEMU has a cookie each way of the same length, or none; give txcookie= and rxcookie= as many digits"
    if config.scheme == "user":
        return "is a network of its own: guests on this switch get an address there by DHCP"
    if config.scheme == "udp":
        return "QEMU knows datagrams over IPv4 only; use an IPv4 address, or plug in another vswitch"
    return f"nobody can tell what plugs into a descriptor; QEMU takes a socket pair's by -netdev socket,id={ID},fd=N"


def _interface(name: str, options: InterfaceOptions) -> str:
    if options.helper is not None:
        return f"is in the bridge {options.br} of this machine"
    if options.master is not None:
        return f"is the interface {name} of this machine, in its bridge {options.master}"
    if options.ip:
        return f"is the interface {name} of this machine, {', '.join(map(str, options.ip))}"
    return f"is the interface {name} of this machine; ip address add 10.0.0.1/24 dev {name} gives it an address"


def _reconnect(version: Version) -> str:
    return "reconnect-ms=1000" if version >= RECONNECT_MS_SINCE else "reconnect=1"


def _is_ipv6(config: EndpointConfig) -> bool:
    return ":" in config.host or (isinstance(config.remote, tuple) and ":" in config.remote[0])


def _inet(end: str, host: str, port: int) -> str:
    return f"{end}.type=inet,{end}.host={_escaped(host)},{end}.port={port}"


def _unix(end: str, path: str) -> str:
    return f"{end}.type=unix,{end}.path={_escaped(os.path.abspath(path))}"


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _shell_word(text: str) -> str:
    """A word for the shell; bytes that are no UTF-8 as bash, zsh and POSIX 2024 write them."""
    if not re.search("[\udc80-\udcff]", text):
        return shlex.quote(text)
    raw = text.encode(errors="surrogateescape")
    word = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}" for byte in raw)
    return f"$'{word}'"


def _escaped(value: str) -> str:
    """A value as QEMU's option parser wants it: a comma is doubled."""
    return value.replace(",", ",,")
