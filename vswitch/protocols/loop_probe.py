"""The probe: a frame that a switch sends by one port, and that comes back if that port leads to itself.

As in the loop protection of other makes (HPE, MikroTik, NETGEAR), and in their ways:

- The destination is a group address, so that any bridge on the way floods it. It is not a reserved one, which it would
  drop (01-80-C2-00-00-0X), and each switch has its own: so it knows its probes by one comparison, and forwards others'.
- The source is the same address without the group bit, and of each peer another: a bridge that gets probes by two ports
  is not to see a station that moves. Both are random, and locally administered.
- The EtherType is IEEE 802's Local Experimental EtherType 2, 0x88B6. 0x9000 (configuration test) makes others answer or
  close a port, 0x9003 is MikroTik's own, and 0x88B7 takes an OUI. A name follows, so that it is not taken for another.

Who sees a probe must not be able to make up another one, so it bears a code by a random key (RFC 7693's keyed BLAKE2b)
over what it says: which peer it was sent to, in which VLAN, and when. That it comes back by another port proves that
somebody has it who is reached by the one and sends by the other: there is a loop, or two guests that act as if.

    destination source [tag] 88B6 "vswitch loop probe" peer:8 vlan:2 time:8 code:16
"""

import hashlib
import hmac
import struct
from typing import NamedTuple

from vswitch.dataplane.frame import GROUP_BIT, TPIDS

ETHERTYPE = b"\x88\xb6"
MARK = b"vswitch loop probe"
KEY_SIZE = 32
AGE_MAX_MS = 5000  # what comes later has been kept by somebody

_SAYS = struct.Struct("!QHQ")
_CODE_SIZE = 16
_LOCAL_GROUP = 0x0300_0000_0000  # group bit, locally administered


class Probe(NamedTuple):
    """What a probe says: the number of the peer it was sent to, the VLAN it was sent in, and when."""

    peer: int
    vlan: int
    time_ms: int


class Probes:
    """Those of a switch, by its random `key` of KEY_SIZE bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.address = _LOCAL_GROUP | int.from_bytes(self._code(b"address")[:5])  # where they are sent

    def write(self, probe: Probe, tag: bytes = b"") -> bytes:
        """The frame, with a VLAN tag of four bytes if it is to have one."""
        says = _SAYS.pack(*probe)
        source = self.address & ~GROUP_BIT ^ (probe.peer & 0xFFFF)
        head = self.address.to_bytes(6) + source.to_bytes(6) + tag + ETHERTYPE
        return head + MARK + says + self._code(says)

    def read(self, frame: bytes, now_ms: int) -> Probe | None:
        """What a frame says that came back; None if it is none of ours, or is of long ago. Takes any bytes."""
        at = 12
        while int.from_bytes(frame[at : at + 2]) in TPIDS:
            at += 4
        if not frame.startswith(ETHERTYPE + MARK, at):
            return None
        at += len(ETHERTYPE + MARK)
        says, code = frame[at : at + _SAYS.size], frame[at + _SAYS.size :][:_CODE_SIZE]
        if len(says) < _SAYS.size or not hmac.compare_digest(code, self._code(says)):
            return None
        probe = Probe(*_SAYS.unpack(says))
        return probe if 0 <= now_ms - probe.time_ms <= AGE_MAX_MS else None

    def _code(self, says: bytes) -> bytes:
        return hashlib.blake2b(says, key=self._key, digest_size=_CODE_SIZE).digest()
