"""Calls between a test and the child process its LAN runs in: pickles with their length before them.

Values are pickled. Guests, hosts and what else lives in the child are told by a number; functions live in the test, and
are called back there.
"""

import contextlib
import dataclasses
import io
import pickle
import struct
from collections.abc import Callable
from typing import Any

from scapy.packet import NoPayload, Packet

LENGTH = struct.Struct(">Q")


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reference: Callable[[Any], Any]) -> None:
        super().__init__(file)
        self.persistent_id = reference  # type: ignore[method-assign]

    def reducer_override(self, value: Any) -> Any:
        """Packets that were not received go with the fields that are set: scapy's own way builds them, and so fills in
        this machine's addresses."""
        if not isinstance(value, Packet) or isinstance(value, NoPayload) or value.original:
            return NotImplemented
        payload = None if isinstance(value.payload, NoPayload) else value.payload
        return _packet, (type(value), value.fields, payload)


def _packet(kind: type[Packet], fields: dict[str, Any], payload: Packet | None) -> Packet:
    packet = kind()
    packet.fields = fields
    if payload is not None:
        packet.add_payload(payload)
    return packet


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, resolve: Callable[[Any], Any]) -> None:
        super().__init__(file)
        self.persistent_load = resolve  # type: ignore[method-assign]


def pack(value: object, reference: Callable[[Any], Any]) -> bytes:
    """`reference` answers what stands for an object, or None if it is to be pickled."""
    file = io.BytesIO()
    _Pickler(file, reference).dump(value)
    body = file.getvalue()
    return LENGTH.pack(len(body)) + body


def unpack(body: bytes, resolve: Callable[[Any], Any]) -> Any:
    return _Unpickler(io.BytesIO(body), resolve).load()


def lives_in_the_child(value: object) -> bool:
    """Whether an object of the child's is told by a number: machines, faults, captures, servers."""
    if isinstance(value, contextlib.AbstractAsyncContextManager):
        return True
    if isinstance(value, BaseException | type) or dataclasses.is_dataclass(value):
        return False
    return type(value).__module__.startswith("vswitch.testing")


class Function:
    """Stands for a function that lives in the test, and is called back there."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
