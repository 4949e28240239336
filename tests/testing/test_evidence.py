"""What is kept of a LAN, and said of it, when a test has failed."""

import json
import shutil
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trio
from scapy.utils import PcapNgReader
from trio.testing import MockClock

from tests import captures
from tests.needs import require
from tests.testing.nested import run, same_vswitch
from vswitch.testing import Lan, QemuError, kept, screen, timeline

__all__ = ["same_vswitch"]

FAILS = """
    import pytest, trio

    async def test_it(lan):
        a, b = await lan.host("a"), await lan.host("b")
        with lan.step("they find each other"):
            assert await a.ping(b.ip)
        with lan.step("they lose each other"):
            async with lan.partition([a], [b]):
                assert await a.ping(b.ip, timeout=0.01)
"""
SAID = [
    "*- vswitch -*",
    "what the test did:",
    "* s  they find each other: took *",
    "* s  they lose each other: an error ended it after *",
    "* s  partition of a from b: an error ended it after *",
    "ports:",
    "*  a     up *1 partition",
    "stations:",
    "*52:54:00:*",
    "flows:",
    "  a     10.0.0.1 *ICMP *dropped: * partition",
    "seed: *",
    "kept: */lan.pcapng",
    "kept: */lan.txt",
]


async def output_of(*command: str) -> str:
    return (await trio.run_process(command, capture_stdout=True, capture_stderr=True)).stdout.decode()


async def test_the_timeline_says_what_was_done_and_when() -> None:
    clock = MockClock(autojump_threshold=0)

    async def steps() -> list[str]:
        async with Lan() as lan:
            a = await lan.host("a")
            with lan.step("first"):
                await trio.sleep(1.25)
                with pytest.raises(ZeroDivisionError):  # noqa: PT012
                    async with lan.step("inner"), lan.isolate(a):
                        await trio.sleep(2)
                        raise ZeroDivisionError
                fault = await lan.down(a)
                await trio.sleep(1)
                await fault.restore()
            await lan.flap(a)
            return lan.timeline.lines()

    assert await trio.to_thread.run_sync(lambda: trio.run(steps, clock=clock)) == [
        "    0.000 s  first: took 4.250 s",
        "    1.250 s  inner: an error ended it after 2.000 s",
        "    1.250 s  isolation of a: an error ended it after 2.000 s",
        "    3.250 s  link down of a: took 1.000 s",
        "    4.250 s  flapping of a: not over",
    ]


async def test_the_timeline_has_a_bound() -> None:
    line = timeline.Timeline()
    line.start()
    for number in range(timeline.SPANS_MAX + 5):
        line.begin(f"{number}" * 1000)
    assert len(line.spans) == timeline.SPANS_MAX
    assert {len(span.what) for span in line.spans} == {timeline.WHAT_MAX}
    line.forget()
    assert len(line.spans) == timeline.SPANS_MAX, "none is over"


async def test_steps_are_comments_in_the_capture_where_they_began(tmp_path: Path) -> None:
    async with Lan() as lan:
        a, b = await lan.host("a"), await lan.host("b")
        with lan.step("before everything"):
            assert await a.ping(b.ip)
        with lan.step("in between, \N{GREEK SMALL LETTER MU}"):
            assert await a.ping(b.ip)
        with lan.step("x" * 5000):
            pass
        file, *_ = await lan.save(tmp_path)
    read = captures.read(file)
    marks = [(at, packet) for at, packet in enumerate(read.packets) if packet.port == captures.SWITCH]
    assert [(at, packet.comment, packet.data) for at, packet in marks] == [
        (0, "before everything", b""),
        (9, "in between, \N{GREEK SMALL LETTER MU}", b""),
        (14, "x" * timeline.WHAT_MAX, b""),
    ]
    times = [packet.time_ns for packet in read.packets]
    assert times == sorted(times)
    require(shutil.which("tshark"), "tshark is not installed")
    command = ["tshark", "-r", str(file), "-T", "fields", "-e", "frame.comment", "-Y", "frame.len == 0"]
    said = (await output_of(*command)).splitlines()
    assert said[:2] == ["before everything", "in between, \N{GREEK SMALL LETTER MU}"]
    with PcapNgReader(str(file)) as reader:
        assert len(list(reader)) == 15
    require(shutil.which("tcpdump"), "tcpdump is not installed")
    assert await output_of("tcpdump", "-r", str(file))


def test_the_report_says_what_the_test_did_and_how_its_lan_looked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILS)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(SAID)


def test_of_a_sync_test_too_and_only_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_before(sync_lan):
            with sync_lan.step("of another test"):
                pass
        """
        + FAILS.replace("async ", "").replace("await ", "").replace("(lan)", "(sync_lan)").replace("lan.", "sync_lan.")
    )
    result = run(pytester)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(SAID[:4])
    result.stdout.fnmatch_lines(SAID[4:])
    result.stdout.no_fnmatch_line("*of another test*")


def test_where_nothing_is_kept_it_is_said_still(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILS)
    result = run(pytester, "--vswitch-pcap=off")
    result.stdout.fnmatch_lines(SAID[:-2])
    result.stdout.no_fnmatch_line("kept: *")


def test_junit_has_what_was_kept_and_the_seed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILS)
    run(pytester, "--junit-xml=junit.xml")
    found = ElementTree.parse(pytester.path / "junit.xml").iter("property")
    properties = [(one.get("name"), Path(one.get("value") or "").name) for one in found]
    node_id = "test_junit_has_what_was_kept_and_the_seed.py::test_it"
    assert properties == [("seed", node_id), ("attachment", "lan.pcapng"), ("attachment", "lan.txt")]


def test_pytest_htmls_page_has_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILS)
    run(pytester, "--html=page.html")
    page = (pytester.path / "page.html").read_text()
    assert "lan.pcapng" in page
    assert "an error ended it after" in page
    attached = {path.suffix for path in (pytester.path / "assets").iterdir()}
    assert ".txt" in attached


def test_on_githubs_runners_it_is_folded(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    pytester.makepyfile(FAILS.replace("they lose each other", "::error::they lose each other\\n::set-env x::y"))
    result = run(pytester)
    shown = ["::group::the LAN", "::stop-commands::*", "what the test did:", "* partition", "::*::", "::endgroup::"]
    result.stdout.fnmatch_lines(shown)
    commands = [line for line in result.outlines if line.startswith("::")]
    assert "::error::they lose each other\\n::set-env x::y: an error" in str(result.stdout)
    resume = commands[1].removeprefix("::stop-commands")
    assert commands == ["::group::the LAN", f"::stop-commands{resume}", f"{resume}::", "::endgroup::"]


def test_a_guest_gives_no_commands_to_githubs_runner() -> None:
    """They are read within lines, and behind blanks; sequences for a terminal are shown as what they are."""
    said = kept._group(("a.console.txt", "\t::add-mask::x\n x ##[error]y\n\x1b[31mred\n")).splitlines()
    token = said[1].removeprefix("::stop-commands::")
    assert len(token) == 32
    assert said == [
        "::group::a.console.txt",
        f"::stop-commands::{token}",
        "        ::add-mask::x",
        " x # # [error]y",
        "\\x1b[31mred",
        f"::{token}::",
        "::endgroup::",
    ]


def test_a_picture_becomes_a_png() -> None:
    pixels = bytes(range(18))
    png = screen.png_of(b"P6\n3 2\n255\n" + pixels)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">IIBBBBB", png[16:29]) == (3, 2, 8, 2, 0, 0, 0)
    at = png.index(b"IDAT")
    (size,) = struct.unpack(">I", png[at - 4 : at])
    assert zlib.decompress(png[at + 4 : at + 4 + size]) == b"\0" + pixels[:9] + b"\0" + pixels[9:]
    for wrong in (b"", b"P5\n3 2\n255\n" + pixels, b"P6\n3 2\n255\n" + pixels[:-1]):
        with pytest.raises(ValueError, match="picture"):
            screen.png_of(wrong)


async def test_a_guests_screen_is_kept(lan: Lan, tmp_path: Path) -> None:
    """The BIOS's: it has no image."""
    seen = await lan.guest("seen", netboot=True, arguments=["-vga", "std"])
    await lan.guest("unseen", netboot=True)
    width, height = struct.unpack(">II", (await seen.screenshot())[16:24])
    assert width >= 320
    assert height >= 200
    with pytest.raises(QemuError, match=r"(?s)no console to take a screendump.*arguments=\['-vga', 'std'\]"):
        await lan.guests["unseen"].screenshot()
    files = [path.name for path in await lan.save(tmp_path)]
    assert files == ["lan.pcapng", "lan.txt", "seen.console.txt", "unseen.console.txt", "seen.png"]
    require(shutil.which("tshark"), "tshark is not installed")
    command = ["tshark", "-r", str(tmp_path / "seen.png"), "-T", "json"]
    said = json.loads(await output_of(*command))
    assert "png" in said[0]["_source"]["layers"]
