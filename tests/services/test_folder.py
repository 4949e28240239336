"""What is opened beneath a folder, and what is not, by the kernel's own call and without it."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.descriptors import descriptors, opened_since
from vswitch.services.user_network import folder as module
from vswitch.services.user_network.folder import Folder


@pytest.fixture(params=["openat2", "absent", "forbidden"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(folder: int, path: bytes) -> int:
        raise PermissionError(errno.EPERM, "seccomp")

    if request.param == "absent":
        monkeypatch.setattr(module, "_OPENAT2", 100_000)
    elif request.param == "forbidden":
        monkeypatch.setattr(module, "_open_beneath", forbidden)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "boot/efi").mkdir(parents=True)
    (root / "kernel").write_text("kernel")
    (root / "boot/efi/grub").write_text("grub")
    (root / os.fsdecode(b"\xff\xe4")).write_text("odd")
    return root


@pytest.fixture
def folder(root: Path, way: None) -> Iterator[Folder]:
    folder = Folder(root)
    before = descriptors()
    yield folder
    assert opened_since(before) == {}
    folder.close()


def content(folder: Folder, name: str) -> str:
    with os.fdopen(folder.open(name)) as file:
        return file.read()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kernel", "kernel"),
        ("boot/efi/grub", "grub"),
        ("boot//efi/./grub", "grub"),
        ("./kernel", "kernel"),
        ("\udcff\udce4", "odd"),
    ],
)
def test_a_file_beneath_is_opened(folder: Folder, name: str, text: str) -> None:
    assert content(folder, name) == text


def test_programs_that_are_started_do_not_get_it(folder: Folder) -> None:
    file = folder.open("kernel")
    assert not os.get_inheritable(file)
    with pytest.raises(OSError, match="Bad file"):
        os.write(file, b"x")
    os.close(file)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "boot", "boot/", "none", "none/kernel", "kernel/", "kernel/x"),
        *("../secret", "boot/../../secret", "boot/../../root/kernel", "..\0", "kernel\0", "kernel\0.png", "\0"),
        *("x" * 256, "a/" * 4096 + "a", "\ud800", "/kernel"),
    ],
)
def test_nothing_else_is(folder: Folder, name: str) -> None:
    with pytest.raises(OSError, match=r"."):
        folder.open(name)


def test_an_absolute_name_leads_nowhere(folder: Folder, root: Path) -> None:
    with pytest.raises(OSError, match="cross-device"):
        folder.open(str(root / "kernel"))
    with pytest.raises(OSError, match="cross-device"):
        folder.open("/etc/passwd")


@pytest.mark.parametrize("target", ["../secret", "../root/kernel", "/etc/passwd", "/dev/fd/0", "loop", "up/secret"])
def test_a_link_does_not_lead_out(folder: Folder, root: Path, target: str) -> None:
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to(target)
    with pytest.raises(OSError, match=r"."):
        folder.open("loop")


def test_a_folder_that_is_a_link_does_not_lead_out(folder: Folder, root: Path) -> None:
    (root / "up").symlink_to("..")
    with pytest.raises(OSError, match=r"."):
        folder.open("up/secret")


def test_a_link_within_is_followed(root: Path) -> None:
    (root / "default").symlink_to("boot/efi/grub")
    folder = Folder(root)
    assert content(folder, "default") == "grub"
    folder.close()


def test_what_is_no_file_is_refused_at_once(folder: Folder, root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "socket"))
    for name in ("fifo", "socket", "boot"):
        with pytest.raises(OSError, match=r"."):
            folder.open(name)


def test_a_device_is_refused(way: None) -> None:
    folder = Folder("/dev")
    with pytest.raises(PermissionError, match="not a regular file"):
        folder.open("null")
    folder.close()


def test_it_stays_the_same_folder(root: Path, way: None) -> None:
    folder = Folder(root)
    root.rename(root.with_name("moved"))
    root.mkdir()
    (root / "kernel").write_text("another")
    assert content(folder, "kernel") == "kernel"
    folder.close()


@pytest.mark.parametrize("name", ["none", "secret"])
def test_a_folder_has_to_be_there(tmp_path: Path, root: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        Folder(tmp_path / name)


PIECES = st.sampled_from(["kernel", "boot", "efi", "grub", "..", ".", "", "up", "\0", "\udcff", "\ud800", "/", "\\"])


def test_no_name_leads_out_or_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, way: None) -> None:
    top = tmp_path_factory.mktemp("top")
    (top / "kernel").write_text("secret")
    (top / "root/boot/efi").mkdir(parents=True)
    (top / "root/up").symlink_to("..")
    (top / "root/kernel").write_text("ours")
    (top / "root/boot/grub").write_text("ours")
    folder = Folder(top / "root")

    @given(st.lists(PIECES, max_size=6).map("/".join) | st.text(st.characters(exclude_categories=())))
    def check(name: str) -> Any:
        try:
            text = content(folder, name)
        except OSError:
            return
        assert text == "ours"

    check()
    folder.close()
