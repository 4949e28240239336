"""How often somebody may cause something."""

from vswitch.budget import Budget


def test_so_many_times_at_once_and_one_more_after_each_rest() -> None:
    budget = Budget(3, 10.0)
    assert [budget.take(100.0) for _ in range(5)] == [0, 0, 0, None, None]
    assert budget.take(109.9) is None
    assert budget.take(110.0) == 3, "that were left out"
    assert budget.take(110.0) is None
    budget.leave_out(5)
    assert [budget.take(1000.0) for _ in range(4)] == [6, 0, 0, None]


def test_one_at_a_time_is_exact_however_late_it_is() -> None:
    for now_s in (0.1, 1234567.1, 1e9 + 0.7):
        budget = Budget(1, 10.0)
        assert budget.take(now_s) == 0
        assert budget.take(now_s + 9.9) is None
        assert budget.take(now_s + 10.1) == 1
