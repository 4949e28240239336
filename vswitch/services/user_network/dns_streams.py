"""DNS over TCP for those who ask (RFC 7766): connections that may carry many queries, answered in any order.

Each has a time to say its next query in, however slowly it says it. There are only so many, in all and of each who
asks: the one that has been silent the longest makes way for a new one (RFC 7766, 6.2.3).
"""

import socket
from collections.abc import Callable
from functools import partial

from vswitch.services.user_network.counters import Reason
from vswitch.services.user_network.message_stream import MessageStream

MOST, EACH_MAX = 64, 8
IDLE_S = 10.0
QUERY_MAX = 4096  # bytes
UNSENT_MAX = 1 << 18  # bytes that one does not take

Say = Callable[[bytes], None]


class _Connection:
    def __init__(self, stream: MessageStream, who: bytes, until_s: float) -> None:
        self.stream, self.who, self.until_s = stream, who, until_s
        self.unanswered = 0

    @property
    def is_done(self) -> bool:
        return self.stream.has_ended and not self.unanswered and not self.stream.unsent


class DnsStreams:
    """`answer` takes a query, who asks, what takes the response, and the time. `drop` takes why one is dropped, and
    whose."""

    def __init__(
        self, answer: Callable[[bytes, bytes, Say, float], None], drop: Callable[[Reason, bytes], None]
    ) -> None:
        self._answer, self._drop = answer, drop
        self._connections: dict[int, _Connection] = {}  # by descriptor

    @property
    def wanted(self) -> dict[int, int]:
        """What to wait for, by descriptor."""
        return {fileno: connection.stream.events for fileno, connection in self._connections.items()}

    def add(self, sock: socket.socket, who: bytes, now_s: float) -> None:
        """Takes over a connection."""
        everyone = list(self._connections.values())
        own = [connection for connection in everyone if connection.who == who]
        rivals = own if len(own) >= EACH_MAX else everyone if len(everyone) >= MOST else []
        if rivals:
            self._drop("crowded", who)
            self._end(min(rivals, key=lambda connection: connection.until_s))
        stream = MessageStream(sock, QUERY_MAX)
        self._connections[stream.fileno()] = _Connection(stream, who, now_s + IDLE_S)

    def serve(self, ready: dict[int, int], now_s: float) -> None:
        for fileno in ready.keys() & self._connections.keys():
            connection = self._connections.get(fileno)
            if connection is None:  # it has ended with another's query, as what it had asked was over
                continue
            try:
                for query in connection.stream.serve(ready[fileno]):
                    connection.until_s = now_s + IDLE_S
                    connection.unanswered += 1
                    self._answer(query, connection.who, partial(self._say, connection), now_s)
            except ValueError:
                self._drop("malformed", connection.who)
                self._end(connection)
            except OSError:
                self._end(connection)
            if connection.is_done:
                self._end(connection)

    def tick(self, now_s: float) -> None:
        for connection in [each for each in self._connections.values() if each.until_s <= now_s]:
            if connection.unanswered or connection.stream.unsent:
                self._drop("timeout", connection.who)
            self._end(connection)

    def close(self) -> None:
        for connection in list(self._connections.values()):
            self._end(connection)

    def _say(self, connection: _Connection, response: bytes) -> None:
        if self._connections.get(connection.stream.fileno()) is not connection:  # it has gone meanwhile
            return
        connection.unanswered -= 1
        try:
            connection.stream.send(response)
        except OSError:
            self._end(connection)
        if connection.stream.unsent > UNSENT_MAX:
            self._drop("crowded", connection.who)
            self._end(connection)
        elif connection.is_done:
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        self._connections.pop(connection.stream.fileno(), None)
        connection.stream.close()
