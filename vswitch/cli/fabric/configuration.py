"""What makes a machine a host of a fabric: a shell's commands and FRR's configuration, as text."""

from vswitch.cli.fabric.description import Host

VXLAN_PORT = 4789  # IANA's; the kernel's own default is another
ENCAPSULATION = 50  # bytes in front of what a guest sends: Ethernet, IPv4, UDP, VXLAN (RFC 7348 5)


def bridge(vni: int) -> str:
    return f"br{vni}"


def vxlan(vni: int) -> str:
    return f"vx{vni}"


def tap(vni: int) -> str:
    return f"tap{vni}"


def make_vxlan(vni: int, address: str) -> str:
    return f"ip link add {vxlan(vni)} type vxlan id {vni} local {address} dstport {VXLAN_PORT} nolearning"


def commands(host: Host) -> str:
    """What root runs once, and again when the machine has started anew.

    Who learns is the bridge, on its TAP port only: what is behind the VXLAN device comes from FRR. The bridge says
    nothing on the LAN itself, and floods multicast as it does broadcast.
    """
    lines = [f"# {host.name}: as root"]
    for vni in host.vnis:
        mtu = host.mtu - ENCAPSULATION
        user = f" user {host.user}" if host.user is not None else ""
        lines += [
            f"ip link add {bridge(vni)} type bridge mcast_snooping 0",
            make_vxlan(vni, str(host.address)),
            f"ip tuntap add {tap(vni)} mode tap{user}",
        ]
        for port in (vxlan(vni), tap(vni)):
            lines.append(f"ip link set {port} mtu {mtu} addrgenmode none master {bridge(vni)} up")
        lines += [
            f"ip link set {vxlan(vni)} type bridge_slave learning off",
            f"ip link set {bridge(vni)} addrgenmode none up",
        ]
    lines += [
        "",
        "# FRR: bgpd=yes in /etc/frr/daemons, what vswitch fabric frr prints in /etc/frr/frr.conf, and then:",
        "#   systemctl restart frr",
        f"# the switch{'es' if len(host.vnis) > 1 else ''}, as {host.user or 'root'}; guests have an MTU of {mtu}:",
    ]
    lines += [f'#   vswitch serve --name lan{vni} {url(vni)} "unix://{_SOCKET.format(vni)}"' for vni in host.vnis]
    return "\n".join(lines)


_SOCKET = "$XDG_RUNTIME_DIR/vswitch/lan{}.sock"


def url(vni: int) -> str:
    """The switch's endpoint."""
    return f"tap://{tap(vni)}"


def frr_conf(host: Host) -> str:
    """For bgpd; zebra needs none. A host that is silent is forgotten after three signs of life that are missing."""
    keepalive_s = max(1, host.hold_s // 3)
    groups = [(name, group) for name, group in (("fabric", host.peers), ("clients", host.clients)) if group]
    lines = ["frr defaults datacenter", f"hostname {host.name}", "!", f"router bgp {host.as_number}"]
    lines += [f" bgp router-id {host.address}", " no bgp default ipv4-unicast"]
    for name, addresses in groups:
        lines += [
            f" neighbor {name} peer-group",
            f" neighbor {name} remote-as {host.as_number}",
            f" neighbor {name} update-source {host.address}",
            f" neighbor {name} timers {keepalive_s} {host.hold_s}",
            f" neighbor {name} timers connect 5",
        ]
        lines += [f" neighbor {address} peer-group {name}" for address in addresses]
    lines += [" !", " address-family l2vpn evpn"]
    lines += [f"  neighbor {name} activate" for name, _ in groups]
    if host.clients:
        lines.append("  neighbor clients route-reflector-client")
    lines += ["  advertise-all-vni", " exit-address-family", "!"]
    return "\n".join(lines)
