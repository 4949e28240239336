"""Quantities carry their unit; what lacks one is answered with the likely form."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vswitch import units
from vswitch.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("0ms", 0.0), ("300s", 300.0), ("0.5s", 0.5), ("5min", 300.0), ("1h", 3600.0), (" 7s ", 7.0)],
)
def test_a_time(text: str, seconds: float) -> None:
    assert units.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1500B", 1500),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("100MB", 10**8),
        ("64MiB", 2**26),
        ("2GB", 2 * 10**9),
        ("1GiB", 2**30),
        ("1.5KiB", 1536),
    ],
)
def test_a_size(text: str, size: int) -> None:
    found = units.size(text)
    assert found == size
    assert isinstance(found, int)


@given(st.integers(0, 10**9))
@example(1001)
def test_a_size_is_exact_to_the_byte(size: int) -> None:
    assert units.size(f"{size}B") == size
    assert units.size(f"{size // 1000}.{size % 1000:03}KB") == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("300", "write 300s"),
        ("1.5", "write 1.5s"),
        ("300S", "write 300s"),
        ("300sec", "write 300s"),
        ("10MiB", "write 10s"),
        ("", "write one like 10s"),
        ("s", "write one like 10s"),
        ("soon", "write one like 10s"),
        ("-1s", "write one like 10s"),
        ("1e3s", "write one like 10s"),
        ("inf", "write one like 10s"),
        ("nan", "write one like 10s"),
        ("1s 2s", "write one like 10s"),
        ("1,5s", "write one like 10s"),
    ],
)
def test_what_is_no_time_is_answered_with_the_likely_form(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        units.duration(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"), [("64", "write 64MiB"), ("64m", "write 64MiB"), ("64Mib", "write 64MiB"), ("x", "one like 10MiB")]
)
def test_what_is_no_size_is_answered_with_the_likely_form(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        units.size(text)
    assert said in str(caught.value)


def test_an_error_lists_the_units_there_are() -> None:
    with pytest.raises(InputError, match="ms, s, min, h"):
        units.duration("1d")
    with pytest.raises(InputError, match="KiB, MiB, GiB"):
        units.size("1TB")


NEARLY = st.from_regex(r"\s?\d{1,3}(\.\d{1,3})?\s?[A-Za-z/%]{0,3}", fullmatch=True)


@given(st.text(alphabet=st.characters()) | NEARLY)
@example("9" * 400 + "MiB")
@example("9" * 5000 + "s")
@example("1\x1bs")
def test_any_text_is_a_quantity_or_an_error_of_one_printable_line(text: str) -> None:
    for read in (units.duration, units.size):
        found: float | InputError
        try:
            found = read(text)
        except InputError as error:
            found = error
        assert str(found).isprintable() if isinstance(found, InputError) else found >= 0
