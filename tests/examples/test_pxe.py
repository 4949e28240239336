"""A machine without a disk boots from the network: it is given an address and the name of a file, and runs that.

What one learns: `netboot=True` gives a machine none of our images, so that QEMU's own network boot, iPXE, comes up;
`arguments` are words for QEMU's command line; `options` of a DHCP server are written as scapy has them. The file is a
script of iPXE's, in a single packet, and what it does is on the wire again.
"""

import math
from typing import Any

from scapy.layers.dhcp import DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.tftp import TFTP, TFTP_DATA, TFTP_RRQ
from scapy.packet import Packet

from vswitch.testing import Lan

SCRIPT = b"#!ipxe\nchain http://10.0.0.1:8080/kernel\n"
DISCOVER, REQUEST = 1, 3


def option(packet: Packet, name: str) -> Any:
    return next((value[1] for value in packet[DHCP].options if value[0] == name), None)


async def test_a_network_boot_step_by_step(lan: Lan) -> None:
    server = await lan.host("server", ip="10.0.0.1")
    async with (
        server.dhcp_server("10.0.0.100-10.0.0.109", options=[("boot-file-name", b"boot.ipxe")]) as dhcp,
        server.router_advertisement("2001:db8::/64", interval=math.inf),  # without, iPXE waits for one for a while
    ):
        machine = await lan.guest("machine", ip="", netboot=True, arguments=["-boot", "n"])
        discover = await lan.expect("udp dst port 67", at=machine, within=60)
        read = await lan.expect("udp dst port 69", at=machine, within=60)

    assert (discover.src, option(discover, "message-type")) == (machine.mac, DISCOVER)
    assert option(discover, "vendor_class_id").startswith(b"PXEClient")
    request = await lan.expect(lambda packet: DHCP in packet and option(packet, "message-type") == REQUEST)
    assert option(request, "requested_addr") == dhcp.leases[machine.mac] == read[IP].src
    assert read[TFTP_RRQ].filename == b"boot.ipxe"

    data = UDP(sport=1069, dport=read[UDP].sport) / TFTP(op=3) / TFTP_DATA(block=1) / SCRIPT
    await server.send(IP(dst=read[IP].src) / data)
    await lan.expect("tcp dst port 8080 and src host " + read[IP].src)
