"""Directories of this machine's that guests have."""

from pathlib import Path

import pytest

from tests.e2e.guest import guest_image
from vswitch import InputError
from vswitch.testing import Lan, QemuError, Share
from vswitch.testing.topology import read


async def test_a_guest_reads_one_and_writes_where_it_may(lan: Lan, tmp_path: Path) -> None:
    guest_image()
    ours, out = tmp_path / "ours, and theirs", tmp_path / "out"
    for directory in (ours, out):
        directory.mkdir()
    (ours / "file").write_text("here")
    guest = await lan.guest("a", share=[Share(ours), Share(out, at="/out", writable=True)])
    assert (await guest.run("cat '/mnt/ours, and theirs/file'")).stdout == "here"
    refused = await guest.run("touch '/mnt/ours, and theirs/new'")
    assert "Read-only file system" in refused.stderr
    assert not (await guest.run("mount -o remount,rw '/mnt/ours, and theirs' && touch '/mnt/ours, and theirs/new'")).ok
    (await guest.run("echo there >/out/file; ln -s /etc/passwd /out/link")).check()
    assert (out / "file").read_text() == "there\n"
    (out / "later").touch()
    await guest.reset()
    assert (await guest.run("ls /out")).stdout.split() == ["file", "later", "link"]
    with pytest.raises(QemuError):
        await guest.snapshot()
    assert sorted(path.name for path in ours.iterdir()) == ["file"]


async def test_what_cannot_be_shared_is_said(lan: Lan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="/nowhere is no directory, which could be shared"):
        await lan.guest("a", share=[Share("/nowhere")])
    assert lan.machines == {}
    file = tmp_path / "lab.toml"
    file.write_text('[[guest]]\nname = "a"\nshare = ["."]\n')
    assert read(str(file)).guests[0].options["share"] == [Share(tmp_path)]
    file.write_text('[[guest]]\nname = "a"\nshare = ["src"]\n')
    with pytest.raises(InputError, match=r"lab.toml:3: \[\[guest\]\] 1: share: .*/src is no directory"):
        read(str(file))
