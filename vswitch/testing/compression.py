"""What kernels and their modules are packed with, unpacked.

Only the standard library is used, as in guest_image.py, and what a Debian system always has: apt itself needs liblz4.
"""

from __future__ import annotations

import ctypes
import gzip
import importlib
import lzma
import struct
from collections.abc import Iterator

from vswitch.testing import build_process
from vswitch.testing.build_process import CommandError

GZIP, XZ, ZSTD = b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4_BLOCK_MAX = 8 << 20  # bytes that a block of the legacy format unpacks to
ELF = b"\x7fELF"

# Where a kernel for x86 tells what it is: Documentation/arch/x86/boot.rst.
SETUP_SECTORS_AT, MAGIC_AT, MAGIC, VERSION_AT, PAYLOAD_AT = 0x1F1, 0x202, b"HdrS", 0x206, 0x248
PAYLOAD_SINCE = 0x208
# A note of type XEN_ELFNOTE_PHYS32_ENTRY, whose owner is Xen, and whose value has 4 or 8 bytes.
PVH_NOTES = tuple(struct.pack("<3I4s", 4, size, 18, b"Xen\0") for size in (4, 8))


class CompressionError(Exception):
    """The content cannot be unpacked here. The text is one line."""


def uncompressed(content: bytes) -> bytes:
    """The content, unpacked if its first bytes say that it is packed. Raises CompressionError."""
    try:
        if content.startswith(XZ):
            return lzma.decompress(content)
        if content.startswith(GZIP):
            return gzip.decompress(content)
        if content.startswith(ZSTD):
            return _unpacked_zstd(content)
        if content.startswith(LZ4_LEGACY):
            return b"".join(_unpacked_lz4(content))
    except (lzma.LZMAError, EOFError, OSError, ValueError, struct.error) as error:
        raise CompressionError(f"it cannot be unpacked ({error})") from error
    return content


def fast_kernel(kernel: bytes) -> bytes:
    """The ELF file in a kernel for x86, if QEMU can start it, which needs an entry for PVH; or else the kernel.

    A packed kernel begins with unpacking itself, which takes an emulated processor most of a second.
    """
    try:
        if kernel[MAGIC_AT:][:4] != MAGIC or struct.unpack_from("<H", kernel, VERSION_AT)[0] < PAYLOAD_SINCE:
            return kernel
        offset, size = struct.unpack_from("<2I", kernel, PAYLOAD_AT)
        begin = ((kernel[SETUP_SECTORS_AT] or 4) + 1) * 512 + offset
        payload = kernel[begin : begin + size]
        # All but gzip's end with the size that they unpack to: scripts/Makefile.lib.
        unpacked = uncompressed(payload if payload.startswith(GZIP) else payload[:-4])
    except (IndexError, struct.error, CompressionError):
        return kernel
    return unpacked if unpacked.startswith(ELF) and any(note in unpacked for note in PVH_NOTES) else kernel


def _unpacked_zstd(content: bytes) -> bytes:
    try:
        zstd = importlib.import_module("compression.zstd")  # as of Python 3.14
    except ImportError:
        try:
            return build_process.run(("zstd", "--decompress", "--quiet", "--stdout"), given=content)
        except CommandError as error:
            raise CompressionError(f"{error}: install zstd") from error
    try:
        return bytes(zstd.decompress(content))
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error


def _unpacked_lz4(content: bytes) -> Iterator[bytes]:
    """Blocks, each after its size: doc/lz4_Frame_format.md, "Legacy frame"."""
    unpack = ctypes.CDLL("liblz4.so.1").LZ4_decompress_safe
    room = ctypes.create_string_buffer(LZ4_BLOCK_MAX)
    at = len(LZ4_LEGACY)
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        block = content[at + 4 : at + 4 + size]
        unpacked = unpack(block, room, len(block), LZ4_BLOCK_MAX)
        if len(block) != size or unpacked < 0:
            raise ValueError("no block of LZ4")
        yield room.raw[:unpacked]
        at += 4 + size
