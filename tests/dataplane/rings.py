"""Cards in Python at the ports of a bridge, with the loop that drives them."""

from tests.virtio import GUEST_BASE, HEADER, USER_BASE, Card, DriverRing, Memory
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.guest_memory import GuestMemory
from vswitch.dataplane.loop import Loop
from vswitch.dataplane.port import Port
from vswitch.dataplane.vhost_link import RingEnd, VhostLink
from vswitch.dataplane.virtqueue import RingPlace, Virtqueue

BUDGET_S = 1.0
POSTED = 64


def device_end(memory: GuestMemory, ring: DriverRing) -> RingEnd:
    place = RingPlace(ring.size, USER_BASE + ring.descriptors, USER_BASE + ring.available, USER_BASE + ring.used)
    return RingEnd(Virtqueue(memory, place, ring.index, event_index=ring.event_index), ring.kick, ring.call)


def card_link(
    card: Card, memory: GuestMemory, port: Port, bridge: Bridge, *, mergeable: bool = True, header_size: int = HEADER
) -> VhostLink:
    return VhostLink(
        device_end(memory, card.receiving),
        device_end(memory, card.sending),
        port,
        bridge,
        header_size=header_size,
        mergeable=mergeable,
        takes_unfinished=True,
    )


class Cards:
    """A card at each port, which always has buffers for what comes."""

    def __init__(self, bridge: Bridge) -> None:
        self._loop = Loop(bridge)
        self._memories: list[GuestMemory] = []
        self.cards: list[Card] = []
        self._links: list[VhostLink] = []
        for port in bridge.ports:
            card = Card(Memory(1 << 20))
            memory = GuestMemory()
            memory.add(GUEST_BASE, USER_BASE, card.memory.size, card.memory.fd, 0)
            link = card_link(card, memory, port, bridge)
            self._loop.add(link)
            card.post(POSTED)
            self.cards.append(card)
            self._memories.append(memory)
            self._links.append(link)

    def exchange(self, source: int, frames: list[bytes], now_ms: int) -> list[list[bytes]]:
        """One card sends; answers what each gets."""
        self.cards[source].send(*frames)
        while self._loop.turn(now_ms, BUDGET_S):
            pass
        assert self._loop.failures == []
        assert self.cards[source].take_back() == len(frames)
        found = [card.frames() for card in self.cards]
        for card, got in zip(self.cards, found, strict=True):
            card.post(len(got))
        return found

    def close(self) -> None:
        while self._links:
            self._loop.remove(self._links.pop())
        self._loop.close()
        for card, memory in zip(self.cards, self._memories, strict=True):
            memory.close()
            card.close()
            card.memory.close()
