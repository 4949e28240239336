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
