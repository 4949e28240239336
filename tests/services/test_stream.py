"""Frames from the switch, however its stream is cut."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.services.user_network.__main__ import Stream
from vswitch.services.user_network.coalescing import FRAME_MAX


def framed(frames: list[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(4) + frame for frame in frames)


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(0, 500), max_size=8))
def test_frames_come_whole_and_in_order(frames: list[bytes], cuts: list[int]) -> None:
    here, there = socket.socketpair()
    with here, there:
        data, stream, found = framed(frames), Stream(there), list[bytes]()
        for at, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
            here.sendall(data[at:end])
            found += stream.receive()
        assert found == frames


def test_one_of_many_pieces_is_waited_for() -> None:
    here, there = socket.socketpair()
    frame = bytes(range(256)) * 256
    with here, there:
        stream = Stream(there)
        data = framed([frame, b"more"])
        for at in range(0, len(data), 1000):
            here.sendall(data[at : at + 1000])
            found = stream.receive()
            assert found == [] or at + 1000 >= len(framed([frame]))
        assert found == [b"more"] or found == [frame, b"more"]


@pytest.mark.parametrize("said", [b"", (FRAME_MAX + 1).to_bytes(4)])
def test_an_end_and_nonsense_end_it(said: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(said)
        here.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            Stream(there).receive()
