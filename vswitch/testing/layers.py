"""scapy's layers that hosts are made of, also where the kernel has no netlink (gVisor, RestrictAddressFamilies=).

scapy asks the kernel for its interfaces and routes when it is imported, and cannot be imported where it gets no socket
to ask with. Our frames go through a switch, not through the kernel, and need neither: there, scapy is told of none.
"""

import importlib
import sys
from typing import Any

try:
    importlib.import_module("scapy.layers.l2")
except OSError as error:
    rtnetlink: Any = sys.modules.get("scapy.arch.linux.rtnetlink")
    if rtnetlink is None or not hasattr(rtnetlink, "_sr1_rtrequest"):  # another scapy, or another reason
        raise ImportError(f"scapy cannot be imported here: {error.strerror}", name="scapy") from error
    rtnetlink._sr1_rtrequest = lambda _: []

from scapy.base_classes import Net
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import ARP, STP, Dot1Q, Dot3, Ether
from scapy.packet import Packet
from scapy.utils import PcapNgReader, checksum

__all__ = [
    "ARP",
    "BOOTP",
    "DHCP",
    "ICMP",
    "IP",
    "STP",
    "UDP",
    "Dot1Q",
    "Dot3",
    "Ether",
    "ICMPv6EchoReply",
    "ICMPv6EchoRequest",
    "ICMPv6NDOptDstLLAddr",
    "ICMPv6NDOptMTU",
    "ICMPv6NDOptPrefixInfo",
    "ICMPv6NDOptRDNSS",
    "ICMPv6NDOptSrcLLAddr",
    "ICMPv6ND_NA",
    "ICMPv6ND_NS",
    "ICMPv6ND_RA",
    "ICMPv6ND_RS",
    "IPv6",
    "Net",
    "Packet",
    "PcapNgReader",
    "checksum",
    "in6_chksum",
]
