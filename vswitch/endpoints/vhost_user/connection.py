"""The messages of one front end, by a unix socket; descriptors come beside them."""

import os
import socket
from contextlib import suppress

import trio

from vswitch.endpoints.vhost_user.device import Device
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports
from vswitch.protocols.vhost_user import FDS_MAX, HEADER_SIZE, ProtocolError, Session, payload_size


class FrontEnd:
    """A connected front end; `sock` is its own."""

    def __init__(self, sock: socket.socket, *, unsealed: bool) -> None:
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._unsealed = unsealed

    async def use(self, ports: Ports, port: SwitchPort, peer: str) -> None:
        """Be the back end of its card, which has the port, until it is gone."""
        why = "removed"
        broken = trio.CancelScope()
        wrong: list[str] = []

        def fail(what: str) -> None:
            wrong.append(what)
            broken.cancel()

        device = Device(ports, port, peer, fail, unsealed=self._unsealed)
        try:
            with broken:
                why = await self._serve(Session(device))
        except ProtocolError as error:
            wrong.append(str(error))
        finally:
            if wrong:
                why = f"turned away: {wrong[0]}"
                text = f"{port.name}: turned away {peer}: {wrong[0]}"
                ports.events.say("turned_away", port.name, text, ports=[port.name])
            device.close(why)

    async def _serve(self, session: Session) -> str:
        """Answers why it is over. Raises ProtocolError."""
        while True:
            try:
                header, fds = await self._receive(HEADER_SIZE)
                if not header:
                    return "closed by peer"
                await self._answer(session, header, fds)
            except OSError as error:
                return error.strerror or "connection lost"

    async def _answer(self, session: Session, header: bytes, fds: list[int]) -> None:
        try:
            payload, more = await self._receive(payload_size(header))
            fds += more
            reply = session.receive(header, payload, fds)
        except BaseException:
            for fd in fds:
                with suppress(OSError):
                    os.close(fd)
            raise
        while reply:
            reply = reply[await self._sock.send(reply) :]

    async def _receive(self, size: int) -> tuple[bytes, list[int]]:
        """So many bytes, or none at the end; and what came beside them. Raises ProtocolError."""
        content, fds = b"", list[int]()
        try:
            while len(content) < size:
                data, ancillary, flags, _ = await self._sock.recvmsg(
                    size - len(content), socket.CMSG_SPACE(4 * FDS_MAX), socket.MSG_CMSG_CLOEXEC
                )
                fds += _descriptors(ancillary)
                if flags & socket.MSG_CTRUNC or len(fds) > FDS_MAX:
                    raise ProtocolError(f"more than {FDS_MAX} descriptors beside a message")
                if not data:
                    if content:
                        raise ProtocolError("a message that is cut off")
                    break
                content += data
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return content, fds

    def close(self) -> None:
        self._sock.close()


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = list[int]()
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += memoryview(content[: len(content) & ~3]).cast("i").tolist()
    return found
