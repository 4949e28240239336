"""`vswitch image`: the tiny guest's images, which tests and the demo boot, ahead of their use, and when it is over."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from vswitch.cli import table
from vswitch.cli.output import complain, say
from vswitch.cli.table import Column
from vswitch.errors import InputError, RefusedError
from vswitch.testing.boards import ARCHES, X86_64

if TYPE_CHECKING:
    from vswitch.testing import GuestImage
    from vswitch.testing.image_cache import CachedImage, CachedSnapshots

COLUMNS = (
    Column("IMAGE"),
    Column("SIZE", 1, right=True),
    Column("MADE OF", 3),
    Column("PACKAGES", 4, wraps=True),
    Column("MODULES", 5, wraps=True),
    Column("OF THIS VERSION", 2),
)


def built(
    tell: Callable[[str], None], packages: Sequence[str] = (), modules: Sequence[str] = (), arch: str = X86_64
) -> "GuestImage":
    """The tiny guest's image; `tell` gets a line if it has to be built first. Raises GuestImageError."""
    from vswitch.testing import guest_image

    if not guest_image.is_built(packages, modules, arch):
        tell("Building the tiny guest (once, some seconds) ...")
    return guest_image.build(packages=packages, modules=modules, arch=arch)


@click.group()
def image() -> None:
    """Build, list and remove images of the tiny guest.

    They are in ~/.cache/vswitch or $VSWITCH_CACHE.
    """


@image.command()
@click.option("--package", "packages", metavar="NAME", multiple=True, help="A Debian package with more programs.")
@click.option("--module", "modules", metavar="NAME", multiple=True, help="A kernel module to load.")
@click.option("--arch", type=click.Choice([*ARCHES]), default=X86_64, help="The processor.")
def build(packages: tuple[str, ...], modules: tuple[str, ...], arch: str) -> None:
    """Build the image, if need be, and print where it is.

    That is its kernel and its initramfs. As in lan.guest(packages=[...], modules=[...]), each combination is an image
    of its own.
    """
    from vswitch.testing.guest_image import GuestImageError, check

    try:
        check(packages, modules)
    except GuestImageError as error:
        raise InputError(str(error)) from None
    with _refusing():
        made = built(complain, packages, modules, arch)
    say(f"{made.kernel}\n{made.initrd}")


@image.command("list")
@table.wide
def list_(wide: bool) -> None:
    """List the images in the cache, and snapshots of guests."""
    from vswitch.testing.image_cache import images, snapshots

    with _refusing():
        found, kept = images(), snapshots()
    rows = [
        (
            str(cached.directory),
            _megabytes(cached),
            _source(cached),
            " ".join(cached.wanted.packages) or "-",
            " ".join(cached.wanted.modules) or "-",
            "yes" if cached.current else "no: prune removes it",
        )
        for cached in found
    ]
    table.show(COLUMNS, rows, wide)
    for machine in kept:
        gone = "" if machine.current else "; its image is gone: prune removes it"
        say(f"{machine.directory}  {_megabytes(machine)}  snapshots: {', '.join(machine.names) or 'none'}{gone}")


@image.command()
@click.option("--all", "everything", is_flag=True, help="Remove all images and snapshots.")
def prune(everything: bool) -> None:
    """Remove images that this version of vswitch does not use.

    With them go snapshots of guests whose image is gone, and what builds that were killed have left.
    """
    from vswitch.testing import image_cache

    with _refusing():
        for image in image_cache.prune(everything=everything):
            say(f"removed {image.directory}, {_megabytes(image)}")
        for machine in image_cache.prune_snapshots(everything=everything):
            say(f"removed {machine.directory}, {_megabytes(machine)}")


def _source(cached: "CachedImage") -> str:
    source = "this machine" if cached.is_hosts else "Debian"
    return source if cached.wanted.arch == X86_64 else f"{source}, {cached.wanted.arch}"


def _megabytes(cached: "CachedImage | CachedSnapshots") -> str:
    return f"{cached.size / 1e6:.0f} MB"


@contextmanager
def _refusing() -> Iterator[None]:
    from vswitch.testing.guest_image import GuestImageError

    try:
        yield
    except GuestImageError as error:
        raise RefusedError(str(error)) from None
