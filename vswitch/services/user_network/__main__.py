"""Started by a user:// endpoint with two descriptors: a stream of frames as QEMU has it (each after its length in four
bytes, net/socket.c), and a socket for words with the switch, a message each. It ends when the switch hangs up.
"""

import math
import os
import resource
import select
import socket
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address

import msgspec

from vswitch.errors import RefusedError
from vswitch.services.user_network import sandbox, settings
from vswitch.services.user_network.coalescing import split
from vswitch.services.user_network.denials import Denial
from vswitch.services.user_network.egress_rules import Rules
from vswitch.services.user_network.folder import Folder
from vswitch.services.user_network.forwards import Served
from vswitch.services.user_network.leases import Lease
from vswitch.services.user_network.network import Network
from vswitch.services.user_network.other_servers import OtherServer
from vswitch.services.user_network.resolv_conf import servers
from vswitch.services.user_network.slirp import Library, Pool

WORD_MAX = 1 << 20
UNSAID_MAX = 4096
READ_BYTES = 1 << 18
QUEUE_MAX = 4 << 20  # bytes that the switch has not taken yet
WAIT_MAX_MS = 1000
TICK_S = 0.02  # how often to look whether something is over, at most: it costs as much as a frame
BATCH_BYTES = 20_000  # after which answers go: else a guest would wait for all of what it has sent in its window
IOV_MAX = 512

_WORDS = {Lease: "Leased", Served: "Forwarded", OtherServer: "Heard", Denial: "Denied"}
_LENGTH = struct.Struct("!I")
_INT = struct.Struct("i")


class Stream:
    """Frames from and to the switch. `lose` is told of those that it takes too slowly."""

    lose: Callable[[bytes], None]

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.fileno = sock.fileno
        self._pieces: list[bytes] = []  # of frames that have not come as a whole, and how many bytes they are
        self._held, self._needed = 0, _LENGTH.size
        self._out: list[bytes] = []
        self._queued = 0

    def receive(self) -> list[bytes]:
        """What has come. Raises EOFError when the switch has hung up."""
        while self._held < self._needed:
            try:
                data = self._sock.recv(READ_BYTES)
            except BlockingIOError:
                return []
            if not data:
                raise EOFError
            self._pieces.append(data)
            self._held += len(data)
        try:
            frames, rest = split(b"".join(self._pieces))
        except ValueError:
            raise EOFError from None
        self._pieces, self._held, self._needed = [rest], len(rest), _LENGTH.size
        if self._held >= self._needed:
            self._needed += int.from_bytes(rest[: _LENGTH.size])
        return frames

    def send(self, frame: bytes) -> None:
        if self._queued > QUEUE_MAX:
            return self.lose(frame)
        self._out += (_LENGTH.pack(len(frame)), frame)
        self._queued += 4 + len(frame)
        return None

    def flush(self) -> bool:
        """Answers whether everything has gone."""
        while self._out:
            pieces = self._out[:IOV_MAX]
            try:
                sent = self._sock.sendmsg(pieces)
            except BlockingIOError:
                return False
            self._queued -= sent
            count = 0
            while count < len(pieces) and sent >= len(pieces[count]):
                sent -= len(pieces[count])
                count += 1
            del self._out[:count]
            if sent:
                self._out[0] = self._out[0][sent:]
        return True


class Words:
    """Messages from and to the switch, in JSON."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unsaid: deque[bytes] = deque()
        self.fileno = sock.fileno

    @property
    def is_behind(self) -> bool:
        """Whether there is something that the switch has not taken yet."""
        return bool(self._unsaid)

    def say(self, what: str, *values: object) -> None:
        """At once, or when `flush` finds room: whoever waits here keeps the switch from saying what it has to say."""
        if len(self._unsaid) < UNSAID_MAX:
            self._unsaid.append(settings.write([what, *values]))
            self.flush()

    def flush(self) -> None:
        with suppress(OSError):  # there is no room, or it has hung up
            while self._unsaid:
                self._sock.send(self._unsaid[0], socket.MSG_DONTWAIT)
                self._unsaid.popleft()

    def hand_over(self, number: int, connection: socket.socket) -> None:
        with suppress(OSError):
            socket.send_fds(
                self._sock, [settings.write(["Opened", number])], [connection.fileno()], socket.MSG_DONTWAIT
            )

    def hear(self) -> Iterator[tuple[settings.Said, socket.socket | None]]:
        """All that the switch has said, each with the socket that came with it, if one did. Raises EOFError when it has
        hung up."""
        with suppress(BlockingIOError):
            while True:
                # Not recv_fds: Python 3.11 takes no notice of its flags.
                data, lent, _, _ = self._sock.recvmsg(WORD_MAX, socket.CMSG_LEN(_INT.size), socket.MSG_DONTWAIT)
                if not data:
                    raise EOFError
                sockets = [socket.socket(fileno=_INT.unpack(number)[0]) for _, _, number in lent]
                yield settings.heard(data), sockets[0] if sockets else None

    def settings(self) -> settings.Settings:
        """What is said first: settings without leases, and those in pieces, the last of which is empty."""
        wanted, leases = settings.read(self._sock.recv(WORD_MAX)), list[Lease]()
        while piece := settings.leases(self._sock.recv(WORD_MAX)):
            leases += piece
        return msgspec.structs.replace(wanted, leases=tuple(leases))


def serve(stream: Stream, words: Words) -> None:
    """Serves until the switch hangs up. Raises EOFError then."""
    wanted = words.settings()
    library = Library()
    folder = _folder(wanted.tftp) if wanted.tftp else None

    network = Network(
        wanted,
        library,
        send=stream.send,
        ask=lambda mac, name: words.say("Where", mac, name),
        tell=lambda what: words.say(_WORDS[type(what)], what),
        complain=lambda text: words.say("Problem", text),
        folder=folder,
        hand_over=words.hand_over,
    )
    stream.lose = network.lose
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pool, clock = Pool(library), _clock()
    words.say("ready", sandbox.enter(None if folder is None else folder.fileno()))
    gone, ticked_s = True, 0.0
    while True:
        others = network.wanted | {
            stream.fileno(): select.POLLIN if gone else select.POLLIN | select.POLLOUT,
            words.fileno(): select.POLLIN | select.POLLOUT if words.is_behind else select.POLLIN,
        }
        due_s = network.due_s
        ready = pool.wait(network.nat.stacks, others, _wait_ms(due_s, clock()))
        now_s = clock()
        if now_s - ticked_s >= TICK_S or (due_s is not None and now_s >= due_s):
            network.tick(now_s)
            ticked_s = now_s
        words.flush()
        if words.fileno() in ready:
            for said, sock in words.hear():
                _obey(network, words, said, sock, now_s)
        if stream.fileno() in ready:
            taken = 0
            for frame in stream.receive():
                network.receive(frame, now_s)
                taken += len(frame)
                if taken >= BATCH_BYTES:
                    taken = 0
                    stream.flush()
        if len(ready) > (stream.fileno() in ready):
            network.serve(ready, now_s)
        gone = stream.flush()


def _folder(path: bytes) -> Folder:
    try:
        return Folder(path)
    except OSError as error:
        raise RefusedError(f"tftp: {os.fsdecode(path)}: {error.strerror}") from None


def _clock() -> Callable[[], float]:
    """The wall clock as it was when this began, and goes on without steps."""
    ahead_s = time.time() - time.monotonic()
    return lambda: ahead_s + time.monotonic()


def _wait_ms(due_s: float | None, now_s: float) -> int:
    return WAIT_MAX_MS if due_s is None else min(max(math.ceil((due_s - now_s) * 1000), 0), WAIT_MAX_MS)


def _obey(network: Network, words: Words, said: settings.Said, sock: socket.socket | None, now_s: float) -> None:
    match said:
        case settings.Hello():
            words.say("Alive")
        case settings.Found():
            network.found(said, now_s)
        case settings.Servers(text):
            network.name_server.upstream.servers = servers(text)
        case settings.Forward() if sock is not None:
            network.forwards.add(said, sock, now_s)
        case settings.Rules(allow, deny):
            network.set_rules(Rules(allow, deny))
        case settings.Unforward(number):
            network.forwards.remove(number)
        case settings.Listen() if sock is not None:
            network.name_server.host.add(sock)
        case settings.Serve():
            network.invent(said.number, settings.Server(said.ip, said.port))
        case settings.Name():
            network.names.invented[said.name] = [ip_address(ip) for ip in said.ips]
        case settings.Count(number):
            for word in network.counted(number):
                words.say("Counted", *word)


def main() -> int:
    frames, words = int(sys.argv[1]), Words(socket.socket(fileno=int(sys.argv[2])))
    try:
        serve(Stream(socket.socket(fileno=frames)), words)
    except EOFError:
        return 0
    except RefusedError as error:
        words.say("refused", str(error))
    except Exception as error:  # a fault of ours
        (place,) = traceback.extract_tb(error.__traceback__)[-1:]
        words.say("Problem", f"{type(error).__name__} in {place.name}:{place.lineno}: {error}"[:500])
    return 1


if __name__ == "__main__":
    sys.exit(main())
