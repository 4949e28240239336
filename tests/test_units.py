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


@pytest.mark.parametrize(
    ("texts", "frames", "bits"),
    [
        (["1000fps"], 1000, 0),
        (["1kfps"], 1000, 0),
        (["1.5Mfps"], 1_500_000, 0),
        (["1bit/s"], 0, 1),
        (["64kbit/s"], 0, 64_000),
        (["10Mbit/s"], 0, 10_000_000),
        (["1000Gbit/s"], 0, 10**12),
        (["0.5kbit/s", " 5 fps "], 5, 500),
    ],
)
def test_a_rate_is_of_frames_of_bits_or_one_of_each(texts: list[str], frames: int, bits: int) -> None:
    assert units.rate(texts) == units.Rate(frames_per_s=frames, bits_per_s=bits)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10", "write 10Mbit/s (units: fps, kfps, Mfps, bit/s, kbit/s, Mbit/s, Gbit/s)"),
        ("10mbit/s", "write 10Mbit/s"),
        ("10Mbit", "write 10Mbit/s"),
        ("10MiB", "write 10Mbit/s"),
        ("", "write one like 10Mbit/s"),
        ("fps", "write one like 10Mbit/s"),
        ("-1fps", "write one like 10Mbit/s"),
        ("0fps", "out of range; 1bit/s or 1fps to 1000Gbit/s"),
        ("0.4bit/s", "out of range"),
        ("1001Gbit/s", "out of range"),
        ("9" * 400 + "fps", "out of range"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_rate_is_answered_with_the_likely_form(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        units.rate([text])
    assert said in str(caught.value)


@pytest.mark.parametrize(("texts", "kind"), [(["1fps", "1kfps"], "frames"), (["1bit/s", "1fps", "1bit/s"], "bits")])
def test_a_rate_has_one_number_of_each_kind(texts: list[str], kind: str) -> None:
    with pytest.raises(InputError, match=f"two rates of {kind}; write one, or one of frames and one of bits"):
        units.rate(texts)


NEARLY = st.from_regex(r"\s?\d{1,3}(\.\d{1,3})?\s?[A-Za-z/%]{0,3}", fullmatch=True)


@given(st.text(alphabet=st.characters()) | NEARLY)
@example("9" * 400 + "MiB")
@example("9" * 5000 + "s")
@example("9" * 400 + "bit/s")
@example("1\x1bs")
def test_any_text_is_a_quantity_or_an_error_of_one_printable_line(text: str) -> None:
    for read in (units.duration, units.size, lambda text: max(units.rate([text]))):
        found: float | InputError
        try:
            found = read(text)
        except InputError as error:
            found = error
        assert str(found).isprintable() if isinstance(found, InputError) else found >= 0
