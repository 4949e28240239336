"""Unpacking what kernels and modules are packed with."""

from __future__ import annotations

import ctypes
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.testing.compression import CompressionError, fast_kernel, uncompressed

CONTENT = b"".join(b"%d " % number for number in range(20_000)) * 140  # 15 MB: two blocks of LZ4
PVH_NOTE = struct.pack("<3I4sI", 4, 4, 18, b"Xen\0", 0x1000000)
STARTED = b"\x7fELF" + bytes(100) + PVH_NOTE
GZIP, XZ = gzip.compress, lzma.compress


def zstd(content: bytes) -> bytes:
    if not shutil.which("zstd"):
        pytest.skip("needs zstd")
    return subprocess.run(["zstd", "-q", "-1"], input=content, stdout=subprocess.PIPE, check=True).stdout


def lz4(content: bytes) -> bytes:
    """As `lz4 -l`."""
    library = ctypes.CDLL("liblz4.so.1")
    packed = [b"\x02\x21\x4c\x18"]
    for at in range(0, len(content), 8 << 20):
        block = content[at : at + (8 << 20)]
        room = ctypes.create_string_buffer(library.LZ4_compressBound(len(block)))
        size = library.LZ4_compress_default(block, room, len(block), len(room))
        packed += [struct.pack("<I", size), room.raw[:size]]
    return b"".join(packed)


def kernel_of(payload: bytes, version: int = 0x20F) -> bytes:
    """A kernel for x86, as far as the boot protocol tells where its payload is."""
    setup = bytearray(2 * 512 + 512)
    setup[0x1F1] = 2
    setup[0x202:0x208] = b"HdrS" + struct.pack("<H", version)
    setup[0x248:0x250] = struct.pack("<2I", 16, len(payload))
    return bytes(setup) + bytes(16) + payload + b"the rest"


@pytest.mark.parametrize(
    "packed", [GZIP, lambda content: XZ(content, preset=0), zstd, lz4], ids=["gz", "xz", "zst", "lz4"]
)
def test_content_is_unpacked_by_its_first_bytes(packed: Callable[[bytes], bytes]) -> None:
    assert uncompressed(packed(CONTENT)) == CONTENT


@given(st.binary())
def test_what_is_not_packed_stays(content: bytes) -> None:
    assert uncompressed(b"." + content) == b"." + content
    assert fast_kernel(content) == content


@pytest.mark.parametrize("packed", [GZIP, XZ, zstd, lz4], ids=["gz", "xz", "zst", "lz4"])
def test_half_a_content_is_an_error(packed: Callable[[bytes], bytes]) -> None:
    whole = packed(CONTENT[:100_000])
    with pytest.raises(CompressionError):
        uncompressed(whole[: len(whole) // 2])


def test_where_zstd_is_missing_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompressionError, match=r"zstd not found: install zstd|it cannot be unpacked"):
        uncompressed(b"\x28\xb5\x2f\xfd")


@pytest.mark.parametrize("packed", [XZ, zstd, lz4], ids=["xz", "zst", "lz4"])
def test_a_kernel_is_unpacked(packed: Callable[[bytes], bytes]) -> None:
    size = struct.pack("<I", len(STARTED))  # after all but gzip
    assert fast_kernel(kernel_of(packed(STARTED) + size)) == STARTED


def test_a_kernel_packed_by_gzip_is_unpacked() -> None:
    assert fast_kernel(kernel_of(GZIP(STARTED))) == STARTED


@pytest.mark.parametrize(
    "kernel",
    [
        kernel_of(GZIP(STARTED.replace(PVH_NOTE, bytes(20)))),
        kernel_of(GZIP(STARTED.replace(b"\x7fELF", b"MZ.."))),
        kernel_of(GZIP(STARTED)[:20]),
        kernel_of(GZIP(STARTED), version=0x207),
        kernel_of(GZIP(STARTED)).replace(b"HdrS", b"SrdH"),
        kernel_of(b""),
        kernel_of(GZIP(STARTED))[:0x24A],
    ],
    ids=["no entry", "no ELF", "damaged", "of old", "no kernel", "nothing", "cut"],
)
def test_a_kernel_that_qemu_would_not_start_unpacked_stays(kernel: bytes) -> None:
    assert fast_kernel(kernel) == kernel
