"""The loop guard: where what is sent by one port comes back by another, or by the same, the newer of them is blocked.

A probe (protocols/loop_probe.py) is sent by a port

- when stations have moved to it: in a loop they do so with the first frame that goes round, and go on,
- once a second, and at once when its peer comes, if that is likely to be a LAN of its own (an uplink), and another
  endpoint has one, too,
- and four times a second while it is blocked.

Else a LAN is as quiet as its guests are. A guest's port is blocked rather than an uplink, which others need.

A blocked port takes part again when some probes in a row did not come back. How many is drawn at random, and twice as
many each time it was in vain, as two switches may each have blocked another one of the links between them. A probe says
that the port it was sent by leads to the port it came back by, so nobody can have a port blocked but his own, and one
that leads to him.
"""

import math
import random
import secrets
from collections import Counter, deque
from itertools import count

import trio

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.frame import PREFIX, TPID_NONE, VLAN_DEFAULT, wire_tag
from vswitch.dataplane.loop import Loop
from vswitch.dataplane.mac_table import VLAN_SHIFT, MacTable
from vswitch.ports.events import Events
from vswitch.ports.policy import Policy, shown_vlan, table_vlan
from vswitch.ports.port import SwitchPort
from vswitch.ports.registry import Registry
from vswitch.ports.wiring import Wiring
from vswitch.protocols.loop_probe import KEY_SIZE, Probe, Probes

MOVES_MIN = 4  # of stations, before anybody is suspected: guests are migrated, and links fail over
SUSPECTS_MAX = 8  # that are probed for it at a time
SUSPECT_PERIOD_MS = 100  # how often one of them may be
LOOK_PERIOD_MS = 10  # how often any may be
UPLINK_PERIOD_MS = 1000
BLOCKED_PERIOD_MS = 250
PORTION = 64  # ports that are probed at a time
UNANSWERED = 8  # probes in a row, at least, before a blocked port takes part again
DOUBLED_MAX = 4  # times that this is doubled
FORGIVEN_MS = 60_000  # after that a loop is a new one
FLUSH_S = 0.001


class _Peer:
    """What is plugged into a port. Its number is higher than those of all that came before."""

    def __init__(self, port: SwitchPort, number: int) -> None:
        self.port = port
        self.number = number
        self.is_uplink = port.is_uplink
        self.probed_ms: int | None = None
        self.probes = 0
        self.found_ms: int | None = None  # when it was in a loop
        self.blocked_in = 0  # the VLAN in which there is a loop, while it is blocked
        self.other: SwitchPort | None = None  # the other port of the loop, if stations may still be thought to be there
        self.unanswered = 0
        self.patience = 0  # how many unanswered probes it takes
        self.doubled = -1  # how often that was
        self.released_ms: int | None = None  # when it took part again

    def is_due(self, period_ms: int, now_ms: int) -> bool:
        """Whether it is time for a probe; timers are not exact."""
        return self.probed_ms is None or now_ms - self.probed_ms > period_ms // 2

    @property
    def is_regular(self) -> bool:
        return self.is_uplink or self.blocked_in > 0


class LoopGuard:
    """A switch's. Its methods are given the time in milliseconds, as forwarding has it."""

    def __init__(
        self, registry: Registry, bridge: Bridge, table: MacTable, loop: Loop, wiring: Wiring, events: Events
    ) -> None:
        self._registry = registry
        self._bridge = bridge
        self._table = table
        self._loop = loop
        self._wiring = wiring
        self._events = events
        self._probes = Probes(secrets.token_bytes(KEY_SIZE))
        if not bridge.hub:
            bridge.probe_address = self._probes.address
        self._random = random.Random(secrets.randbits(64))
        self._numbers = count(1)
        self._peers: dict[SwitchPort, _Peer] = {}
        self._by_number: dict[int, _Peer] = {}
        self._regular: deque[_Peer] = deque()  # uplinks and blocked ports, the next to be probed first
        self._uplinks = Counter[str]()  # by endpoint: the ports of one, if there are several, are in no loop
        self._blocked = 0
        self._moves_seen = 0
        self._suspected_ms: int | None = None
        self._woken = trio.Event()

    def plugged(self, port: SwitchPort) -> None:
        """A port has a peer."""
        peer = self._peers[port] = _Peer(port, next(self._numbers))
        self._by_number[peer.number] = peer
        if peer.is_uplink:
            self._uplinks[port.endpoint] += 1
            self._attend(peer)

    def unplugged(self, port: SwitchPort) -> None:
        """A port's peer is gone."""
        peer = self._peers.pop(port)
        del self._by_number[peer.number]
        if peer.is_uplink:
            self._uplinks -= Counter((port.endpoint,))  # which leaves out what is zero
        if peer.is_regular:
            self._regular.remove(peer)
        if peer.blocked_in:
            self._blocked -= 1
            self._wiring.set_forwarding(port, True)

    def explains(self, port: SwitchPort, since_ms: int) -> bool:
        """Whether a port was found to be in a loop since a time."""
        peer = self._peers.get(port)
        return peer is not None and peer.found_ms is not None and peer.found_ms >= since_ms

    def look(self, now_ms: int) -> None:
        """See to what came in: after each turn of the loop."""
        for data in self._bridge.take_returned():
            chunk, data.returned = data.returned, b""
            port = self._registry.by_index(data.index)
            if port is not None and port.port is data:
                self._take(port, chunk, now_ms)
        if self._table.moves - self._moves_seen >= MOVES_MIN:
            self._suspect(now_ms)

    async def work(self) -> None:
        """Wait until it is time to probe some ports."""
        period_ms = math.inf
        if self._blocked or len(self._regular) > PORTION:
            period_ms = BLOCKED_PERIOD_MS
        elif len(self._uplinks) > 1:
            period_ms = UPLINK_PERIOD_MS
        with trio.move_on_after(period_ms / 1000):
            await self._woken.wait()
        self._woken = trio.Event()

    def probe_regularly(self, now_ms: int) -> None:
        """Send the probes that are due, of some ports."""
        for _ in range(min(PORTION, len(self._regular))):
            peer = self._regular[0]
            self._regular.rotate(-1)
            if peer.blocked_in:
                self._try_again(peer, now_ms)
            elif len(self._uplinks) > 1 and peer.is_due(UPLINK_PERIOD_MS, now_ms):
                vlans = _vlans(peer.port.policy)
                self._probe(peer, vlans[peer.probes % len(vlans)], now_ms)
        self._loop.flush(now_ms, FLUSH_S)

    def _attend(self, peer: _Peer) -> None:
        """Have a port probed regularly, and at once."""
        self._regular.appendleft(peer)
        self._woken.set()

    def _suspect(self, now_ms: int) -> None:
        """Probe the ports that stations have moved to, in their VLANs."""
        if self._suspected_ms is not None and now_ms - self._suspected_ms < LOOK_PERIOD_MS:
            return
        self._suspected_ms = now_ms
        moved = self._table.moved(max(self._moves_seen, self._table.moves - 4 * SUSPECTS_MAX))
        self._moves_seen = self._table.moves
        suspects = list(dict.fromkeys((index, key >> VLAN_SHIFT) for key, _, index in reversed(moved)))
        for index, vlan in suspects[:SUSPECTS_MAX]:
            port = self._registry.by_index(index)
            peer = None if port is None else self._peers.get(port)
            if peer is not None and not peer.blocked_in and peer.is_due(SUSPECT_PERIOD_MS, now_ms):
                self._probe(peer, vlan, now_ms)
        self._loop.flush(now_ms, FLUSH_S)

    def _probe(self, peer: _Peer, vlan: int, now_ms: int) -> None:
        data = peer.port.port
        peer.probed_ms = now_ms
        peer.probes += 1
        if self._bridge.hub or not data.up or not data.vlans.carries(vlan) or peer.port.policy.loop == "off":
            return
        tag = b""
        if data.vlans.pvid != vlan:
            tag = int(data.vlans.push & 0xFFFF).to_bytes(2) + shown_vlan(vlan).to_bytes(2)
        frame = self._probes.write(Probe(peer.number, vlan, now_ms), tag)
        self._loop.stamp()
        self._bridge.originate(data, len(frame).to_bytes(PREFIX) + frame)

    def _take(self, port: SwitchPort, chunk: bytes, now_ms: int) -> None:
        """A probe came back by a port, or what looks like one."""
        probe = self._probes.read(chunk[PREFIX:], now_ms)
        back = self._peers.get(port)
        if probe is None or back is None or self._vlan(port, chunk) != probe.vlan:
            return
        sent = self._by_number.get(probe.peer)
        if sent is None or not _reaches(back.port, sent.port) or back.port.policy.loop == "off":
            return
        sent.found_ms = back.found_ms = now_ms
        blocked = [peer for peer in (sent, back) if peer.blocked_in]
        for peer in blocked:
            peer.unanswered = 0
        if not blocked:
            self._found(sent, back, probe.vlan, now_ms)

    def _vlan(self, port: SwitchPort, chunk: bytes) -> int:
        vlans = port.port.vlans
        service_tpid = TPID_NONE if vlans.customer else self._bridge.service_tpid
        return int(vlans.classify(wire_tag(chunk, 0, len(chunk) - PREFIX, vlans.tpid, service_tpid)))

    def _found(self, sent: _Peer, back: _Peer, vlan: int, now_ms: int) -> None:
        """There is a loop: block the newer of its ports that may be."""
        where = f" (VLAN {shown_vlan(vlan)})" if vlan != VLAN_DEFAULT else ""
        if sent is back:
            comes = f"what is sent by {sent.port.name} comes back by it{where}: there is a loop behind it; undo that"
        else:
            comes = f"what is sent by {sent.port.name} comes back by {back.port.name}{where}: both lead to one LAN; "
            comes += "take one of the links out"
        may_be = [peer for peer in (sent, back) if peer.port.policy.loop == "block"]
        newer = max(may_be or [sent, back], key=lambda peer: (not peer.is_uplink, peer.number))
        older = back if newer is sent else sent
        if may_be:
            self._block(newer, older, vlan, now_ms)
            text = f"{newer.port.name} is blocked: {comes}; then it takes part again by itself"
        else:
            text = f"{comes}; nothing is blocked (loop=warn)"
        ports = dict.fromkeys((newer.port.name, older.port.name))
        self._events.say("loop", newer.port.name, text, ports=ports)

    def _block(self, peer: _Peer, older: _Peer, vlan: int, now_ms: int) -> None:
        if not peer.is_regular:
            self._attend(peer)
        self._woken.set()
        self._blocked += 1
        peer.blocked_in = vlan
        peer.unanswered = 0
        is_new = peer.released_ms is None or now_ms - peer.released_ms >= FORGIVEN_MS
        peer.doubled = 0 if is_new else min(DOUBLED_MAX, peer.doubled + 1)
        peer.patience = self._random.randint(UNANSWERED, 2 * UNANSWERED) << peer.doubled
        peer.other = older.port
        self._wiring.set_forwarding(peer.port, False)
        self._table.forget_port(older.port.port.index)  # stations seemed to be there that are not

    def _try_again(self, peer: _Peer, now_ms: int) -> None:
        """Probe a blocked port, or have it take part again if its loop is gone, or it is to be open all the same."""
        wanted, vlan = peer.port.policy.loop == "block", peer.blocked_in
        if wanted and not peer.is_due(BLOCKED_PERIOD_MS, now_ms):
            return
        if peer.other is not None:  # meanwhile the last frames have come round
            self._table.forget_port(peer.other.port.index)
            peer.other = None
        if wanted and peer.unanswered < peer.patience:
            peer.unanswered += 1
        else:
            self._release(peer, "the loop is gone" if wanted else f"loop={peer.port.policy.loop}", now_ms)
        self._probe(peer, vlan, now_ms)  # when it is released, too: another switch may have done the same just now

    def _release(self, peer: _Peer, why: str, now_ms: int) -> None:
        self._blocked -= 1
        peer.blocked_in, peer.released_ms = 0, now_ms
        if not peer.is_uplink:
            self._regular.remove(peer)
        self._wiring.set_forwarding(peer.port, True)
        name = peer.port.name
        self._events.say("loop_over", name, f"{name} takes part again: {why}", ports=[name])


def _vlans(policy: Policy) -> tuple[int, ...]:
    """The VLANs in which an uplink is probed in turn, as the data plane numbers them; of a trunk for all, one."""
    if policy.trunk is None:
        return (policy.pvid or VLAN_DEFAULT,)
    listed = policy.trunk if isinstance(policy.trunk, tuple) else ()
    native = () if policy.native is None else (policy.native,)
    return tuple(map(table_vlan, dict.fromkeys((*native, *listed)))) or (VLAN_DEFAULT,)


def _reaches(one: SwitchPort, other: SwitchPort) -> bool:
    """Whether the switch sends what comes in by one port by the other: else there is no way round."""
    if one is other:
        return True
    here, there = one.port, other.port
    return not (here.isolated and there.isolated) and not here.is_parted_from(there)
