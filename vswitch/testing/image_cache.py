"""The guest images in the cache, and which of them nobody of this version asks for; and snapshots of guests.

Only the standard library is used, as in guest_image.py.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from vswitch.testing.build_process import remove_leftovers, work_directory
from vswitch.testing.guest_image import WANTED, Wanted, default_cache, digest

HOST = "-host"
SNAPSHOTS = "snapshots"
MANIFEST = "manifest.json"  # of each snapshot, and of each template
OF = "of.json"  # what the image of a machine with snapshots is made of


@dataclass(frozen=True)
class CachedImage:
    """An image, and what `build` was asked for when it was made; `current`: it would be taken, not built, today."""

    directory: Path
    wanted: Wanted
    size: int  # bytes on the disk, with the templates that lie beside it
    current: bool

    @property
    def is_hosts(self) -> bool:
        """Whether it is made of a machine's own kernel, instead of Debian's."""
        return self.directory.name.endswith(HOST)


def images(cache: Path | None = None) -> list[CachedImage]:
    """Those in the cache directory, by default the one of `build`. Raises GuestImageError and OSError."""
    directory = (cache or default_cache()) / "guest"
    if not directory.exists():
        return []
    found = sorted(path for path in directory.iterdir() if re.fullmatch(rf"[0-9a-f]{{16}}({HOST})?", path.name))
    return [_read(path) for path in found if path.is_dir()]


def _read(directory: Path) -> CachedImage:
    try:
        wanted = Wanted.read((directory / WANTED).read_text())
    except (OSError, ValueError):  # of a version that did not say
        wanted, current = Wanted(), False
    else:
        current = directory.name.removesuffix(HOST) == digest(wanted)
    size = sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))
    return CachedImage(directory, wanted, size, current)


def prune(cache: Path | None = None, *, everything: bool = False) -> list[CachedImage]:
    """Remove images that are not current, or all of them, and what killed builders have left. Answers the images.

    Raises GuestImageError and OSError.
    """
    removed = [image for image in images(cache) if everything or not image.current]
    remove_leftovers((cache or default_cache()) / "guest")
    for image in removed:
        with work_directory(image.directory.parent) as work:  # nobody sees half of it
            image.directory.rename(work / image.directory.name)
    return removed


@dataclass(frozen=True)
class CachedSnapshots:
    """Snapshots of a machine. `current`: its image is there still, as it was."""

    directory: Path
    names: list[str]
    size: int  # bytes on the disk
    current: bool


def snapshots(cache: Path | None = None) -> list[CachedSnapshots]:
    """Those in the cache directory. Raises GuestImageError and OSError."""
    found = sorted((cache or default_cache()).glob(f"{SNAPSHOTS}/*/{OF}"))
    return [_read_snapshots(path.parent) for path in found]


def prune_snapshots(cache: Path | None = None, *, everything: bool = False) -> list[CachedSnapshots]:
    """Remove those that are not current, or all of them. Raises GuestImageError and OSError."""
    removed = [found for found in snapshots(cache) if everything or not found.current]
    for found in removed:
        shutil.rmtree(found.directory)
    return removed


def least_used(directory: Path, most: int) -> list[Path]:
    """What is too much in a directory of snapshots, or templates, of which so many are kept."""
    found = [path for path in directory.iterdir() if (path / MANIFEST).exists()]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return found[most:]


def file_stamp(path: Path) -> list[object]:
    """A file, and what tells it from another one of its name."""
    try:
        found = path.stat()
    except OSError:
        return [str(path), None, None]
    return [str(path), found.st_size, found.st_mtime_ns]


def _read_snapshots(directory: Path) -> CachedSnapshots:
    try:
        stamps = json.loads((directory / OF).read_bytes())
        current = all(file_stamp(Path(stamp[0])) == stamp and stamp[1] is not None for stamp in stamps)
    except (OSError, ValueError, LookupError, TypeError):
        current = False
    names = sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST}"))
    size = sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))
    return CachedSnapshots(directory, names, size, current)
