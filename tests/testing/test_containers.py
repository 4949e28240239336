"""Stations that are containers, which podman runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import IMAGE, store_with_image
from tests.namespaces import needed_for_tap
from tests.waiting import is_over
from vswitch import InputError, RefusedError
from vswitch.testing import Lan, SyncLan


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A store of images with one of them, busybox."""
    needed_for_tap()
    environment = store_with_image(tmp_path_factory.mktemp("podman"))
    with pytest.MonkeyPatch.context() as patched:
        for name, text in environment.items():
            patched.setenv(name, text)
        yield


@pytest.mark.usefixtures("podman")
async def test_a_container_is_a_machine_like_others(lan: Lan) -> None:
    host = await lan.host("host")
    box = await lan.container("box", IMAGE, ["sleep", "1000"], gateway="10.0.0.254", arguments=["--env=COLOUR=blue"])
    assert await host.ping(box.ip)
    assert (await box.run("ping -c 1 host")).ok, "it knows others by name"
    later = await lan.host("later")
    assert (await box.run("ping -c 1 later")).ok, "also those that come later"
    said = await box.run("hostname; echo $COLOUR; cat /sys/class/net/eth0/address; ip route; ls /bin")
    assert said.stdout.startswith(f"box\nblue\n{box.mac}\ndefault via 10.0.0.254 dev eth0")
    done = await box.run("cat; echo oops >&2; exit 3", input=b"in")
    assert (done.status, done.output, done.errors) == (3, b"in", b"oops\n")
    async with lan.partition([box], [later]):
        assert not (await box.run("ping -c 1 -W 1 later")).ok
    with pytest.raises(InputError, match="somebody else's"):
        await lan.container("other", IMAGE, ip=box.ip)
    first = box.pid
    await lan.remove(box)
    await lan.eventually(lambda: is_over(first))
    with pytest.raises(RefusedError, match="container box has ended"):
        _ = box.pid


@pytest.mark.usefixtures("podman")
def test_in_a_sync_test_too() -> None:
    with SyncLan() as lan:
        box = lan.container("box", IMAGE, ["sleep", "1000"])
        assert box.run("hostname").stdout == "box\n"


@pytest.mark.usefixtures("podman")
async def test_what_podman_refuses_is_said_in_one_line(
    lan: Lan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match=r"^container box cannot be made: .*nothing") as refused:
        await lan.container("box", IMAGE, ["/bin/nothing"])
    assert "\n" not in str(refused.value)
    with pytest.raises(RefusedError, match=r"^container box cannot be made: unknown flag: --colour"):
        await lan.container("box", IMAGE, arguments=["--colour"])
    assert (lan.machines, lan.switch.ports()) == ({}, [])
    for program in ("unshare", "nsenter"):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError, match="podman not found: install the package podman"):
        await lan.container("box", IMAGE)
