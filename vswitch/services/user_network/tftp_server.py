"""The TFTP server, from which guests boot (RFC 1350 and the options of protocols/tftp.py). It only reads files.

Sans-IO but for the files: a datagram and whom it is from in, datagrams out; time is an argument. A block is read when
it is sent, so a transfer holds a descriptor and no content.

A client acknowledges the last block of a window. An acknowledgement of an earlier one says that the next was lost: all
is sent again from there (RFC 7440, 4). One that says nothing new is ignored, else each would double what is sent from
then on (the Sorcerer's Apprentice Syndrome, RFC 1123, 4.2.3.1); what it would have brought comes when the time is up.
"""

import errno
import os
import secrets
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import msgspec

from vswitch.protocols import tftp
from vswitch.services.user_network.folder import Folder

TRANSFERS_MAX, TRANSFERS_EACH_MAX = 256, 8
WINDOW_MAX = 64  # blocks
TIMEOUT_S = 1.0
TRIES_MAX = 5
STALL_S = 30.0  # without an acknowledgement, whatever the timeout
TID_MIN, TID_MAX = 49152, 65535  # the ports that are nobody's (RFC 6335, 6)


class Peer(msgspec.Struct, frozen=True):
    """A client, and the port of ours that it speaks with: 69, or the one of a transfer."""

    mac: bytes
    ip: IPv4Address | IPv6Address
    port: int
    server_port: int

    def is_client_of(self, other: "Peer") -> bool:
        return (self.mac, self.ip, self.port) == (other.mac, other.ip, other.port)


class _Transfer(msgspec.Struct):
    """A file under way. Its blocks are counted from 1 without end; the OACK, if there is one, is block 0."""

    request: tftp.Request
    file: int
    size: int  # of the file, when it was opened
    agreed: dict[bytes, int]
    blksize: int
    window: int
    timeout_s: float
    acked: int  # the last block that is acknowledged, and every one before
    sent: int = 0  # the last block that was sent
    tries: int = 0
    due_s: float = 0.0
    acked_s: float = 0.0  # when something new was acknowledged, or it began

    @property
    def last(self) -> int:
        """The block that is shorter than others, or empty."""
        return self.size // self.blksize + 1

    @property
    def is_begun(self) -> bool:
        return self.acked > (-1 if self.agreed else 0)

    @property
    def window_end(self) -> int:
        """The last block that may be under way. The OACK is alone."""
        return min(self.acked + self.window, self.last) if self.acked >= 0 else 0

    def acknowledge(self, number: int) -> bool:
        """Answers whether that is new: it is one of the blocks under way."""
        count = (number - self.acked) % tftp.BLOCK_NUMBERS
        if not 0 < count <= self.sent - self.acked:
            return False
        self.acked += count
        self.tries = 0
        return True

    def block(self, number: int) -> bytes:
        """The datagram. Raises OSError if the file cannot be read, or has become shorter."""
        if number == 0:
            return tftp.oack(self.agreed)
        at = (number - 1) * self.blksize
        size = min(self.blksize, self.size - at)
        content = os.pread(self.file, size, at)
        if len(content) < size:
            raise OSError(errno.ESTALE, "the file has become shorter")
        return tftp.data(number, content)


class TftpServer:
    """`send` takes datagrams for a peer, from the port of ours that it names. None has more than `payload_max` bytes,
    but for clients that know no options and get blocks of 512."""

    def __init__(self, folder: Folder, *, payload_max: int, send: Callable[[Peer, bytes], None]) -> None:
        self._folder = folder
        self._send = send
        self._values_max = {tftp.BLKSIZE: payload_max - tftp.DATA_HEADER, tftp.WINDOWSIZE: WINDOW_MAX}
        self._transfers: dict[Peer, _Transfer] = {}

    def __contains__(self, peer: Peer) -> bool:
        """Whether it is a client's end of a transfer."""
        return peer in self._transfers

    @property
    def due_s(self) -> float | None:
        """When `tick` is needed; None while there is no transfer."""
        return min((transfer.due_s for transfer in self._transfers.values()), default=None)

    def close(self) -> None:
        for peer in list(self._transfers):
            self._end(peer)

    def receive(self, peer: Peer, payload: bytes, now_s: float) -> bool:
        """A datagram for one of our ports. Answers False if it is malformed or for no transfer; the latter gets an
        error (RFC 1350, 4)."""
        message = tftp.read(payload)
        if message is None:
            return False
        if isinstance(message, tftp.Request) and peer.server_port == tftp.PORT:
            self._request(peer, message, now_s)
            return True
        transfer = self._transfers.get(peer)
        if transfer is None:
            if not isinstance(message, tftp.Error):
                self._refuse(peer, tftp.UNKNOWN_TID, "unknown transfer ID")
            return False
        if isinstance(message, tftp.Ack):
            if transfer.acknowledge(message.block):
                transfer.acked_s = now_s
                self._go_on(peer, transfer, now_s)
            return True
        if isinstance(message, tftp.Request):
            self._refuse(peer, tftp.ILLEGAL, "a request belongs to port 69")
        self._end(peer)
        return True

    def tick(self, now_s: float) -> None:
        """Sends again what was not acknowledged in time, or gives up."""
        for peer, transfer in list(self._transfers.items()):
            if transfer.due_s > now_s:
                continue
            if transfer.tries >= TRIES_MAX or now_s - transfer.acked_s >= STALL_S:
                self._end(peer)
            else:
                self._send_window(peer, transfer, now_s)

    def _request(self, peer: Peer, request: tftp.Request, now_s: float) -> None:
        """Who asks again begins again. If it has not even begun, it may have missed the answer, or have it already:
        then both answers are from the same port, and the client is right to stay with it."""
        mine = [other for other in self._transfers if other.mac == peer.mac]
        tids = {other.server_port for other in mine}
        before = next((other for other in mine if other.is_client_of(peer)), None)
        if before is not None:
            transfer = self._transfers[before]
            if transfer.request == request and not transfer.is_begun:
                transfer.tries = 0
                return self._send_window(before, transfer, now_s)
            self._end(before)
            mine.remove(before)
        if request.opcode == tftp.WRQ:
            return self._refuse(peer, tftp.ACCESS_VIOLATION, "files are only read here")
        if request.mode != b"octet":
            return self._refuse(peer, tftp.ILLEGAL, "the mode is not octet")
        if len(mine) >= TRANSFERS_EACH_MAX or len(self._transfers) >= TRANSFERS_MAX:
            return self._refuse(peer, tftp.ALLOCATION_EXCEEDED, "too many transfers")
        return self._open(msgspec.structs.replace(peer, server_port=_free_tid(tids)), request, now_s)

    def _open(self, peer: Peer, request: tftp.Request, now_s: float) -> None:
        try:
            file = self._folder.open(request.name.replace("\\", "/").lstrip("/"))
        except PermissionError:
            return self._refuse(peer, tftp.ACCESS_VIOLATION, "access violation")
        except OSError:
            return self._refuse(peer, tftp.NOT_FOUND, "file not found")
        size = os.fstat(file).st_size
        agreed = self._agree(request.options, size)
        if agreed is None:
            os.close(file)
            return self._refuse(peer, tftp.OPTION_NEGOTIATION, "an option has no such value")
        self._transfers[peer] = transfer = _Transfer(
            request=request,
            file=file,
            size=size,
            agreed=agreed,
            blksize=agreed.get(tftp.BLKSIZE, tftp.BLKSIZE_DEFAULT),
            window=agreed.get(tftp.WINDOWSIZE, 1),
            timeout_s=agreed.get(tftp.TIMEOUT, TIMEOUT_S),
            acked=-1 if agreed else 0,
            acked_s=now_s,
        )
        return self._send_window(peer, transfer, now_s)

    def _agree(self, options: dict[bytes, bytes], size: int) -> dict[bytes, int] | None:
        """The options that are acknowledged, each with our value; None if the client's is one that it cannot have."""
        agreed = {}
        for name, value in options.items():
            if name == tftp.TSIZE:
                agreed[name] = size
            elif name in tftp.VALUES:
                wanted = tftp.number(value)
                if wanted is None or wanted not in tftp.VALUES[name]:
                    return None
                agreed[name] = min(wanted, self._values_max.get(name, wanted))
        return agreed

    def _go_on(self, peer: Peer, transfer: _Transfer, now_s: float) -> None:
        if transfer.acked == transfer.last:
            self._end(peer)
        else:
            self._send_window(peer, transfer, now_s)

    def _send_window(self, peer: Peer, transfer: _Transfer, now_s: float) -> None:
        """All that may be under way, from the first block that is not acknowledged."""
        transfer.tries += 1
        transfer.due_s = min(now_s + transfer.timeout_s, transfer.acked_s + STALL_S)
        transfer.sent = transfer.window_end
        for number in range(transfer.acked + 1, transfer.sent + 1):
            try:
                datagram = transfer.block(number)
            except OSError:
                self._refuse(peer, tftp.UNDEFINED, "the file cannot be read any more")
                return self._end(peer)
            self._send(peer, datagram)
        return None

    def _refuse(self, peer: Peer, code: int, text: str) -> None:
        self._send(peer, tftp.error(code, text))

    def _end(self, peer: Peer) -> None:
        os.close(self._transfers.pop(peer).file)


def _free_tid(taken: set[int]) -> int:
    """One that others cannot guess."""
    while (tid := TID_MIN + secrets.randbelow(TID_MAX - TID_MIN + 1)) in taken:
        pass
    return tid
