"""What somebody outside can cause to be said of many subjects: seldom of each, and of only so many. Sans-IO."""


class Seldom:
    """Of each subject once in a period, and of `most` in all: whatever is forged takes no more memory or attention."""

    def __init__(self, most: int, period_s: float) -> None:
        self._most, self._period_s = most, period_s
        self._said_s: dict[str, float] = {}  # when, of those within a period, the first one first

    def may(self, subject: str, now_s: float) -> bool:
        """Whether it may be said of a subject, which then counts as done."""
        for old, said_s in list(self._said_s.items()):
            if now_s - said_s < self._period_s:
                break
            del self._said_s[old]
        if subject in self._said_s or len(self._said_s) >= self._most:
            return False
        self._said_s[subject] = now_s
        return True
