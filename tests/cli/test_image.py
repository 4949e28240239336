"""`vswitch image`: guest images are built ahead, listed and removed; a build itself is test_guest_image.py's."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import Home, is_one_line
from vswitch.testing.guest_image import WANTED, Wanted, digest
from vswitch.testing.image_cache import file_stamp

OTHER = "0123456789abcdef"  # of another version


@pytest.fixture
def cache(home: Home) -> Path:
    """Where images are, none yet."""
    home.env["VSWITCH_CACHE"] = str(home.root / "cache")
    directory = home.root / "cache" / "guest"
    directory.mkdir(parents=True)
    return directory


def put(cache: Path, wanted: Wanted, name: str = "") -> Path:
    image = cache / (name or digest(wanted))
    image.mkdir()
    (image / "kernel").write_bytes(bytes(3_000_000))
    (image / "initramfs").write_bytes(bytes(2_000_000))
    (image / WANTED).write_text(wanted.text())
    return image


def ok(home: Home, *arguments: str) -> list[str]:
    done = home.run("image", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def refused(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    assert done.returncode == code
    assert done.stdout == ""
    assert is_one_line(done.stderr)
    return done.stderr


def test_an_image_that_is_there_is_not_built_again(home: Home, cache: Path) -> None:
    plain = put(cache, Wanted())
    more = put(cache, Wanted(("nftables", "tcpdump"), ("nf_tables",)))
    assert ok(home, "build") == [str(plain / "kernel"), str(plain / "initramfs")]
    arguments = ("--package", "tcpdump", "--package", "nftables", "--module", "nf_tables")
    assert ok(home, "build", *arguments) == [str(more / "kernel"), str(more / "initramfs")]


def test_an_image_is_told_by_what_it_is_made_of(home: Home, cache: Path) -> None:
    put(cache, Wanted(("nftables",), ("nft_ct", "nf_tables")))
    put(cache, Wanted(), f"{digest(Wanted())}-host")
    put(cache, Wanted(("gone",), arch="aarch64"), OTHER)
    (cache / "building-x").mkdir()
    (cache / ("f" * 16)).touch()
    rows = {tuple(line.split()[1:]) for line in ok(home, "list")[1:]}
    assert rows == {
        ("5", "MB", "Debian", "nftables", "nft_ct", "nf_tables", "yes"),
        ("5", "MB", "this", "machine", "-", "-", "yes"),
        ("5", "MB", "Debian,", "aarch64", "gone", "-", "no:", "prune", "removes", "it"),
    }


def test_what_no_image_says_of_itself_is_of_another_version(home: Home, cache: Path) -> None:
    (put(cache, Wanted(), OTHER) / WANTED).unlink()
    assert "no: prune removes it" in ok(home, "list")[1]


def test_images_of_other_versions_are_removed_and_with_all_every_one(home: Home, cache: Path) -> None:
    kept, old = put(cache, Wanted()), put(cache, Wanted(), OTHER)
    assert ok(home, "prune") == [f"removed {old}, 5 MB"]
    assert list(cache.iterdir()) == [kept]
    assert ok(home, "prune") == []
    assert ok(home, "prune", "--all") == [f"removed {kept}, 5 MB"]
    assert list(cache.iterdir()) == []


def test_what_a_killed_builder_has_left_is_removed(home: Home, cache: Path) -> None:
    left = cache / "building-x"
    (left / "work").mkdir(parents=True)
    (left / "lock").touch()
    ok(home, "prune")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("command", ["list", "prune"])
def test_without_a_cache_there_is_no_image(home: Home, command: str) -> None:
    home.env["VSWITCH_CACHE"] = str(home.root / "nowhere")
    assert len(ok(home, command)) == (command == "list")  # the line of heads


@pytest.mark.parametrize("option", ["--package", "--module"])
def test_what_cannot_be_a_name_is_exit_code_2(home: Home, cache: Path, option: str) -> None:
    assert f"'../x' is no name of a {option[2:]}" in refused(home.run("image", "build", option, "../x"), 2)


def test_a_cache_that_cannot_be_is_exit_code_1(home: Home) -> None:
    (home.root / "file").touch()
    home.env["VSWITCH_CACHE"] = str(home.root / "file")
    done = home.run("image", "build")
    assert done.returncode == 1
    said = done.stderr.removeprefix("Building the tiny guest (once, some seconds) ...\n")
    assert is_one_line(said)
    assert said.startswith(f"vswitch: no guest image: {home.root}/file/guest: Not a directory; set VSWITCH_CACHE")


def test_snapshots_go_with_their_image(home: Home, cache: Path) -> None:
    image = home.root / "disk.raw"
    image.write_bytes(b"x")
    kept, gone = (cache.parent / "snapshots" / name for name in ("kept", "gone"))
    for directory, stamp in ((kept, file_stamp(image)), (gone, [str(home.root / "none"), 1, 1])):
        (directory / "ready").mkdir(parents=True)
        (directory / "of.json").write_text(json.dumps([stamp]))
        (directory / "ready" / "manifest.json").write_text("{}")
    assert [line.partition("MB")[2] for line in ok(home, "list")[1:]] == [
        "  snapshots: ready; its image is gone: prune removes it",
        "  snapshots: ready",
    ]
    assert ok(home, "prune")[0].startswith(f"removed {gone}, ")
    image.write_bytes(b"another")
    assert ok(home, "prune")[0].startswith(f"removed {kept}, ")
    assert ok(home, "list")[1:] == []
