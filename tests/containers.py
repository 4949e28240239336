"""An image for podman, and a store of images that is a test's own."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tests.needs import require

IMAGE = "localhost/vswitch-test"
# Also where a container may not have limits and control groups of its own.
CONTAINERS_CONF = """
[engine]
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
cgroups = "no-conmon"
"""


def store_with_image(
    directory: Path, under: Sequence[str] = (), environment: Mapping[str, str] = MappingProxyType({})
) -> Mapping[str, str]:
    """Makes a store in a directory, with one image, busybox; answers what podman needs in its environment to use it.

    `under` is a program, with arguments, that starts podman, and `environment` is what it has already.
    """
    for program, package in (("podman", "podman"), ("runc", "runc"), ("busybox", "busybox-static")):
        require(shutil.which(program), f"{program} not found: install the package {package}")
    store = f'[storage]\ndriver = "vfs"\ngraphroot = "{directory}/store"\nrunroot = "{directory}/run"\n'
    files = {"CONTAINERS_STORAGE_CONF": store, "CONTAINERS_CONF": CONTAINERS_CONF}
    for name, text in files.items():
        (directory / name).write_text(text)
    with tarfile.open(directory / "image.tar", "w") as image:
        image.add(os.path.realpath(shutil.which("busybox") or ""), "bin/busybox")
        for name in ("sh", "cat", "hostname", "ip", "ping", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            image.addfile(link)
    needed = {name: str(directory / name) for name in files}
    command = [*under, "podman", "import", str(directory / "image.tar"), IMAGE]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment, **needed})
    return {**environment, **needed}
