"""The name server of a user network: its own names, and others by asking this machine's servers.

Guests ask by UDP, which the gateway reads from frames, and by TCP, in connections that the NAT ends at sockets of ours.
"""

import socket
from collections.abc import Callable
from functools import partial

from vswitch.protocols import dns, dns_records
from vswitch.services.user_network.counters import Reason, Service
from vswitch.services.user_network.dns_streams import DnsStreams, Say
from vswitch.services.user_network.egress import Egress
from vswitch.services.user_network.host_listener import HostListener
from vswitch.services.user_network.names import Names
from vswitch.services.user_network.settings import Settings
from vswitch.services.user_network.upstream import Upstream
from vswitch.services.user_network.zones import Zones

_FAILURES: dict[Reason, int] = {"malformed": dns.FORMERR, "crowded": dns.SERVFAIL}


class NameServer:
    """`egress` says which names stations may know, and is told what these stand for. `drop` takes why a query, or a
    connection, of a station is dropped, `count` what was served."""

    def __init__(
        self,
        settings: Settings,
        names: Names,
        *,
        drop: Callable[[Reason, bytes], None],
        count: Callable[[Service], None],
    ) -> None:
        self._settings = settings
        self._names = names
        self.egress: Egress | None = None
        self._now_s = 0.0
        self._drop, self._count = drop, count
        self.upstream = Upstream(settings.resolv_conf)
        self._streams = DnsStreams(self._answer_stream, drop)
        self.host = HostListener(Zones(settings, names))

    @property
    def wanted(self) -> dict[int, int]:
        """What to wait for, by descriptor."""
        return self._streams.wanted | self.host.wanted | self.upstream.wanted

    def ask(self, query: bytes, mac: bytes, say: Say, now_s: float, *, by_tcp: bool = False) -> Reason | None:
        """Has a station's query answered, now or later. Answers why it is not, if so."""
        self._now_s = now_s
        try:
            response = self._names.answer(query, now_s)
            if self.egress is not None and (response is None or self._names.is_invented(query)):
                if not self.egress.may_ask(mac, dns_records.question(query), now_s):
                    self._drop("denied", mac)
                    say(dns.failure(query, dns.NXDOMAIN))  # who is refused would go on asking
                    return None
                say = partial(self._say_known, self.egress, mac, query, say)
        except ValueError:
            return "malformed"
        if response is not None:
            say(response)
        elif self._settings.is_closed:  # at once: clients would wait for seconds
            say(dns.failure(query, dns.NXDOMAIN))
        elif not self.upstream.ask(query, mac, say, now_s, by_tcp=by_tcp):
            return "crowded"
        self._count("dns")
        return None

    def connected(self, mac: bytes, connection: socket.socket, now_s: float) -> None:
        """A station has connected."""
        self._streams.add(connection.dup(), mac, now_s)

    def serve(self, ready: dict[int, int], now_s: float) -> None:
        """What is open already comes first: what is opened now may have the number of one that has just been closed."""
        self._streams.serve(ready, now_s)
        self.upstream.serve(ready)
        self.host.serve(ready, now_s)

    def tick(self, now_s: float) -> None:
        """What comes from upstream from now on, comes now."""
        self._now_s = now_s
        self._streams.tick(now_s)
        self.upstream.expire(now_s)
        self.host.tick(now_s)

    def close(self) -> None:
        self._streams.close()
        self.upstream.close()
        self.host.close()

    def _say_known(self, egress: Egress, mac: bytes, query: bytes, say: Say, response: bytes) -> None:
        """A response to a station that may reach what is in it from now on."""
        try:
            told = egress.answered(mac, dns_records.question(query), response, self._now_s)
        except ValueError:
            self._drop("malformed", mac)
            told = dns.failure(query, dns.SERVFAIL)
        say(told)

    def _answer_stream(self, query: bytes, mac: bytes, say: Say, now_s: float) -> None:
        reason = self.ask(query, mac, say, now_s, by_tcp=True)
        if reason is not None:
            self._drop(reason, mac)
            say(dns.failure(query, _FAILURES[reason]))
