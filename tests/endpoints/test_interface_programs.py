"""Programs that help with an interface of this machine: QEMU's helper, and scripts; what they do wrong."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import vswitch
from tests.descriptors import descriptors, opened_since
from vswitch.endpoints.interface import helper, program
from vswitch.errors import RefusedError

GIVES_ONE_AND_FAILS = f"""#!{sys.executable} -SE
import socket, sys
with socket.socket(fileno=int(sys.argv[2].removeprefix("--fd="))) as sock:
    socket.send_fds(sock, [b"\\0"], [0])
sys.exit(1)
"""
GIVES_NO_DEVICE = GIVES_ONE_AND_FAILS.replace("sys.exit(1)", "")


def script(directory: Path, text: str) -> str:
    path = directory / "script"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


async def refused_helper(path: str, bridge: str = "br0") -> str:
    with pytest.raises(RefusedError) as caught:
        await helper.run(path, bridge)
    return str(caught.value)


@pytest.mark.parametrize(
    ("says", "means"),
    [
        ("access denied by acl file", "br0 is not allowed; have root add the line: allow br0 to /etc/qemu/bridge.conf"),
        ("failed to parse default acl file `/etc/qemu/bridge.conf'", "br0 is not allowed; have root add the line"),
        ("failed to create tun device: Operation not permitted", "it has no rights; have root run: chmod u+s {}"),
        ("failed to open /dev/net/tun: Permission denied", "it has no rights; have root run: chmod u+s {}"),
        ("failed to get mtu of bridge `br0': No such device", "there is no bridge br0; have root run: ip link add br0"),
        ("first\nsecond \x1b[31m\n", "{}: second \\x1b[31m"),
        ("", "{}: it gives no device, and does not say why"),
    ],
)
@pytest.mark.parametrize("status", [0, 1])
async def test_what_the_helper_says_is_answered_with_what_to_do(
    tmp_path: Path, says: str, means: str, status: int
) -> None:
    (tmp_path / "says").write_text(says)
    path = script(tmp_path, f"#!/bin/sh\ncat {tmp_path}/says >&2\nexit {status}\n")
    before = descriptors()
    assert (await refused_helper(path)).startswith(f"helper: {means.format(path)}")
    assert not opened_since(before)


async def test_a_device_of_a_helper_that_fails_is_not_kept(tmp_path: Path) -> None:
    path = script(tmp_path, GIVES_ONE_AND_FAILS)
    before = descriptors()
    assert "does not say why" in await refused_helper(path)
    assert not opened_since(before)


async def test_a_helper_is_called_as_qemu_calls_it(tmp_path: Path) -> None:
    path = script(tmp_path, '#!/bin/sh\necho "$*" >&2\n')
    said = await refused_helper(path, "lan")
    assert said.startswith(f"helper: {path}: --use-vnet --fd=")
    assert said.endswith(" --br=lan")


async def test_what_is_no_tap_device_is_not_taken(tmp_path: Path) -> None:
    url = f"tap://?helper={script(tmp_path, GIVES_NO_DEVICE)}"
    before = descriptors()
    async with vswitch.VSwitch() as switch:
        with pytest.raises(RefusedError, match="helper: what it hands over is no TAP device"):
            await switch.attach(url)
    assert not opened_since(before)


async def test_a_helper_that_is_nowhere_is_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "PLACES", ("/no/such", "/nor/this"))
    said = await refused_helper("")
    assert said.startswith("helper: there is no qemu-bridge-helper; install it (on Debian: apt install qemu-system-")


async def test_a_program_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    path = script(tmp_path, "#!/bin/sh\nsleep 60\n")
    with pytest.raises(RefusedError) as caught:
        await program.run_script("ifup", path, "lab0", 0.1)
    assert str(caught.value) == f"ifup: {path}: has not ended within 0.1 s, and was killed"


async def test_a_program_that_is_no_longer_awaited_ends_with_what_it_has_started(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = script(tmp_path, f"#!/bin/sh\n(echo started; sleep 60) >{fifo} &\nwait\n")
    writers = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(program.run, [path], 60))
            await trio.lowlevel.wait_readable(writers)
            assert os.read(writers, 100) == b"started\n"
            nursery.cancel_scope.cancel()
        await trio.lowlevel.wait_readable(writers)
        assert os.read(writers, 100) == b""
    finally:
        os.close(writers)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("#!/bin/sh\nexit 7\n", 0o755, "{} lab0: ended with status 7; its own words are in the log"),
        ("#!/bin/sh\nkill -9 $$\n", 0o755, "{} lab0: was killed by signal 9; its own words are in the log"),
        ("#!/bin/sh\n", 0o644, "{}: it may not be run; make it executable: chmod +x"),
        ("exit 0\n", 0o755, "{}: it is no program; a script begins with a line like #!/bin/sh"),
    ],
)
async def test_a_script_that_fails_is_an_error(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = script(tmp_path, text)
    os.chmod(path, mode)
    with pytest.raises(RefusedError) as caught:
        await program.run_script("ifup", path, "lab0", 20)
    assert str(caught.value) == "ifup: " + said.format(path)


async def test_what_a_script_leaves_in_the_background_runs_on(tmp_path: Path) -> None:
    path = script(tmp_path, f"#!/bin/sh\nsleep 60 &\necho $! >{tmp_path}/pid\n")
    await program.run_script("ifup", path, "lab0", 20)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
