"""How often somebody may cause something: so many times at once, and after that as often as there is a rest."""


class Budget:
    """`times` at once, and one more after each `rest_s`."""

    def __init__(self, times: int, rest_s: float) -> None:
        self._ahead_s = (times - 1) * rest_s  # how far ahead of its rests it may be
        self._rest_s = rest_s
        self._rested_s = 0.0  # when all is there again
        self._left_out = 0

    def take(self, now_s: float) -> int | None:
        """How many were left out before this one; None if it is to be left out, too."""
        begun_s = max(self._rested_s, now_s)
        if begun_s - now_s > self._ahead_s:
            self.leave_out()
            return None
        self._rested_s = begun_s + self._rest_s
        left_out, self._left_out = self._left_out, 0
        return left_out

    def leave_out(self, times: int = 1) -> None:
        """Something that is not even to be asked for."""
        self._left_out += times
