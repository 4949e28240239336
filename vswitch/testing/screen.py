"""A guest's screen, from QEMU's picture of it (PPM, netpbm's P6) to PNG (W3C Recommendation, third edition).

QEMU writes PNG itself only from 7.1 on, and where it was built with libpng.
"""

import re
import struct
import zlib


def png_of(ppm: bytes) -> bytes:
    """Raises ValueError for what is no P6 of 8 bits a colour."""
    head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", ppm)
    if head is None:
        raise ValueError("that is no picture in PPM's binary form")
    width, height = int(head[1]), int(head[2])
    row = width * 3
    pixels = ppm[head.end() :]
    if len(pixels) < row * height:
        raise ValueError("the picture is not whole")
    rows = b"".join(b"\0" + pixels[at : at + row] for at in range(0, row * height, row))  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 2: RGB
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
