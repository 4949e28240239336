"""What a failed test shows: its own line and a sentence, nothing of ours and of trio's."""

import re

import pytest

from tests.e2e.guest import guest_image
from tests.testing.nested import run, same_vswitch

__all__ = ["same_vswitch"]

ERRORS = """
    import pytest
    from vswitch.testing import CommandFailed, GuestImageError, Kernel, QemuError

    async def test_input(lan):
        await lan.host("a", vlna=10)

    async def test_input_of_a_guest(lan):
        await lan.guest("a", vlna=10, image=Kernel("none"))

    async def test_image(lan):
        await lan.guest("a", modules=["no/no"])

    async def test_qemu(lan):
        await lan.guest("a", image=Kernel("/nowhere"))

    async def test_expect(lan):
        await lan.expect("icmp", within=0)

    def test_sync_input(sync_lan):
        sync_lan.host("a", vlna=10)

    def test_sync_qemu(sync_lan):
        sync_lan.guest("a", image=Kernel("/nowhere"))
"""


def test_the_tests_own_line_and_a_sentence(pytester: pytest.Pytester) -> None:
    guest_image()
    pytester.makepyfile(ERRORS)
    result = run(pytester, "--show-capture=no")
    result.assert_outcomes(failed=7)
    shown = str(result.stdout)
    for line in (
        ">       await lan.host(",
        ">       sync_lan.guest(",
        "no guest image: 'no/no' is no name of a module",
    ):
        assert line in shown
    for foreign in ("site-packages", "vswitch/testing", "Traceback", "During handling", "direct cause", "raise "):
        assert foreign not in shown
    assert len(shown.splitlines()) < 7 * 16
    assert "vswitch/testing/lan.py" in str(run(pytester, "--full-trace", "-k", "test_input").stdout)


def test_a_panic_is_shown_once(pytester: pytest.Pytester) -> None:
    guest_image()
    panic = "echo c >/proc/sysrq-trigger"
    pytester.makepyfile(
        f"""
        import trio

        async def test_later(lan):
            a = await lan.guest("a")
            await a.run("(sleep 0.2; {panic}) >/dev/null 2>&1 &")
            await trio.sleep(60)  # the line

        async def test_at_once(lan):
            a = await lan.guest("a")
            await a.run("{panic}")  # the line
        """
    )
    result = run(pytester, "--show-capture=no")
    result.assert_outcomes(failed=2)
    shown = str(result.stdout)
    assert shown.count("Kernel panic - not syncing: sysrq triggered crash") == 2
    assert len(re.findall(r"^> .*# the line\n(?: +\^+\n)?E  ", shown, re.MULTILINE)) == 2
    for foreign in ("Group", "site-packages", "vswitch/testing"):
        assert foreign not in shown


@pytest.mark.parametrize("fixture", ["lan", "sync_lan"])
def test_an_error_of_the_tests_own_is_shown_as_it_is(pytester: pytest.Pytester, fixture: str) -> None:
    pytester.makepyfile(
        f"""
        def helper():
            try:
                1 // 0
            except ZeroDivisionError as error:
                raise ValueError("mine") from error

        {"async " if fixture == "lan" else ""}def test_it({fixture}):
            helper()
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError", "*direct cause*", ">*raise ValueError*", "E*ValueError: mine"])


def test_hypothesis_is_told_what_it_needs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from hypothesis import given, settings, strategies
        from vswitch.testing import Lan

        @given(strategies.integers(0, 9))
        async def test_with_the_fixture(lan, number):
            assert False, "is not to run"

        @given(strategies.integers(0, 9))
        async def test_of_the_wrong_kind(sync_lan, number):
            assert False, "is not to run"

        @pytest.mark.trio
        @settings(deadline=None)
        @given(strategies.integers(0, 9))
        async def test_with_a_lan_of_its_own(number):
            async with Lan() as lan:
                await lan.host("a")

        @settings(deadline=None)
        @given(strategies.integers(0, 9))
        def test_sync(sync_lan, number):
            assert sync_lan.seed
        """
    )
    result = run(pytester)
    result.assert_outcomes(errors=2, passed=2)
    result.stdout.fnmatch_lines(
        [
            "*the fixture lan is for one run of a test, and Hypothesis makes many; write `async with*",
            "*the fixture sync_lan is not for async tests; use lan",
        ]
    )
    assert "make this one async" not in str(result.stdout)
