"""What outsiders cause to be said of many subjects is seldom, whatever they are called."""

from hypothesis import given
from hypothesis import strategies as st

from vswitch.seldom import Seldom


def test_each_once_in_a_period_and_no_more_than_most() -> None:
    seldom = Seldom(2, 10.0)
    assert [seldom.may(subject, 0.0) for subject in "aabbc"] == [True, False, True, False, False]
    assert [seldom.may(subject, 9.9) for subject in "abc"] == [False] * 3
    assert [seldom.may(subject, 10.0) for subject in "cab"] == [True, True, False]


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=2))))
def test_no_period_has_more_than_most(said: list[tuple[int, str]]) -> None:
    seldom, now_s, times = Seldom(3, 10.0), 0, list[int]()
    for later_s, subject in said:
        now_s += later_s
        if seldom.may(subject, now_s):
            times.append(now_s)
    assert all(late - early >= 10 for early, late in zip(times, times[3:], strict=False))
