"""VLANs: which ones a port carries, and how the frames of a run get the tag that a port sends (IEEE 802.1Q 6.9, 8.6).

A port has one VLAN for frames without a tag, at most, and a set of VLANs that it carries tagged. That makes every kind:

    kind                pvid    tagged      its frames without tag, VID 0 included, are in VLAN pvid
    transparent         1       all         changes nothing between itself and another transparent port
    access              v       none
    trunk               0       the set     has no VLAN for frames without tag: they are dropped
    trunk with native   v       the set, v  takes its native VLAN tagged as well, and sends it untagged
    customer (QinQ)     v       none        whatever tag comes in is payload

On the wire a frame of a VLAN is without a tag, has one with VID 0 that only says its priority, or has the VLAN's.
A port that carries VLAN_ZERO takes VID 0 as the number of that VLAN, as vde_switch does, and sends it so.
What a port sends is one of two: without any tag in its pvid, tagged otherwise. PCP and DEI stay as long as there is
a tag.
"""

from typing import Final, final

from librt.strings import BytesWriter, read_i16_be, read_i32_be, read_i64_be, write_i16_be, write_i32_be, write_i64_be
from librt.vecs import vec
from mypy_extensions import i16, i32, i64

from vswitch.dataplane.drops import BAD_TAG, VLAN, refuse
from vswitch.dataplane.frame import (
    AT_DST,
    AT_TCI,
    AT_TPID,
    CUT_OFF,
    FRAME_MAX,
    PREFIX,
    TPID_8021Q,
    TPID_NONE,
    UNTAGGED,
    VID_MASK,
    VLAN_DEFAULT,
    VLAN_MAX,
    VLAN_ZERO,
    copy,
    frame_length,
)
from vswitch.dataplane.run import Run

TAG: Final = 4  # bytes
PRIORITY_MASK: Final = 0xF000  # PCP and DEI in a TCI

# The tag that a frame has: none, one that says only its priority, or one that says its VLAN.
FORM_UNTAGGED: Final = 0
FORM_PRIORITY: Final = 1
FORM_TAGGED: Final = 2


def vlan_set(vids: list[int]) -> vec[i64]:
    """A set of VLANs, one bit each."""
    words = [0] * 64
    for vid in vids:
        words[vid >> 6] |= 1 << (vid & 63)
    return vec[i64]([word - (word >> 63 << 64) for word in words])


@final
class PortVlans:
    """The VLANs of a port: `pvid` is 0 if frames without a tag have none; `tagged` is the `vlan_set` it takes tagged.

    `push` is the TPID of the tag that frames without one get where they leave tagged (signed, 16 bits); of a `customer`
    port that is the service tag's. `zero` is the VLAN of frames whose tag has VID 0.
    """

    def __init__(
        self, pvid: i64, tagged: vec[i64], *, transparent: bool = False, customer: bool = False, push: i64 = TPID_8021Q
    ) -> None:
        self.pvid = pvid
        self.tagged = tagged
        self.transparent = transparent
        self.customer = customer
        self.push = push
        self.tpid: i64 = TPID_NONE if customer else TPID_8021Q  # what starts a tag in what comes in
        self.zero: i64 = VLAN_ZERO if self._has_tagged(VLAN_ZERO) else pvid

    def classify(self, tag: i64) -> i64:
        """The VLAN of a frame that came in with a `wire_tag`, or a drop."""
        if tag in (UNTAGGED, 0):
            vlan = self.pvid
            if tag == 0:
                vlan = self.zero
            if vlan == 0:
                return refuse(VLAN)
            return vlan
        if tag in (CUT_OFF, VID_MASK):
            return refuse(BAD_TAG)
        if not self._has_tagged(tag):
            return refuse(VLAN)
        return tag

    def carries(self, vlan: i64) -> bool:
        return vlan == self.pvid or self._has_tagged(vlan)

    def _has_tagged(self, vlan: i64) -> bool:
        return (self.tagged[vlan >> 6] >> (vlan & 63)) & 1 == 1

    def sends_as_is(self, source: "PortVlans", vlan: i64, form: i64) -> bool:
        """Whether a frame that came in from `source` leaves here unchanged."""
        if self.pvid == vlan:
            return form == FORM_UNTAGGED or (self.transparent and source.transparent)
        return form == FORM_TAGGED or (self.transparent and source.transparent)


NO_VLANS: Final = vlan_set([])
ALL_VLANS: Final = vlan_set(list(range(1, VLAN_MAX + 1)))
TRANSPARENT: Final = PortVlans(VLAN_DEFAULT, ALL_VLANS, transparent=True)


def form_of(tag: i64) -> i64:
    """The form of a frame with a `wire_tag`."""
    if tag == UNTAGGED:
        return FORM_UNTAGGED
    if tag > 0:
        return FORM_TAGGED
    return FORM_PRIORITY


def retag(chunk: bytes, start: i64, end: i64, form: i64, vlan: i64, tpid: i64) -> Run:
    """The frames at chunk[start:end], all of one `form`, with a tag of `vlan`, or without one if that is 0.

    A tag that is there keeps its TPID, PCP and DEI; a new one has `tpid` and neither. A frame that would grow beyond
    FRAME_MAX is left out.
    """
    out = BytesWriter()
    frames: i64 = 0
    before: i64 = 0
    after: i64 = 0
    if form != FORM_UNTAGGED:
        before = TAG
    if vlan != 0:
        after = TAG
    vid = vlan
    if vlan == VLAN_ZERO:
        vid = 0
    tci = vid
    while start < end:
        size = frame_length(chunk, start)
        rest = start + AT_TPID + before
        at = start
        start += PREFIX + size
        size += after - before
        if size > FRAME_MAX:
            continue
        frames += 1
        write_i32_be(out, i32(size))
        write_i64_be(out, read_i64_be(chunk, at + AT_DST))
        write_i32_be(out, read_i32_be(chunk, at + AT_DST + 8))
        if vlan != 0:
            if before != 0:
                tpid = i64(read_i16_be(chunk, at + AT_TPID))
                tci = vid | (i64(read_i16_be(chunk, at + AT_TCI)) & PRIORITY_MASK)
            write_i16_be(out, i16(tpid))
            if tci >= 0x8000:
                tci -= 0x10000  # 16 bits, as librt has them
            write_i16_be(out, i16(tci))
        copy(out, chunk, rest, start)
    joined = out.getvalue()
    return Run(joined, 0, len(joined), frames)
