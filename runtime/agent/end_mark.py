"""Which call of a child is to end."""

from __future__ import annotations


class EndMark:
    """The number of a call, in memory that a child shares with its zygote: what the zygote's signals are meant for.

    A signal is sent while that call is at work, as far as the zygote knows. When it is heard, the call may be over, and the next
    one, which nobody wants to end, begun. The mark therefore stays as it is until another call is to end: nobody can tell that a
    signal was heard.
    """

    # Whatever the child does.
    ALL = 0

    def __init__(self) -> None:
        import mmap

        self._numbers = memoryview(mmap.mmap(-1, 8)).cast("Q")

    def put(self, number: int) -> None:
        self._numbers[0] = number

    def is_for(self, number: int) -> bool:
        """Whether that call is to end by itself or with all others."""
        return self._numbers[0] in (self.ALL, number)

    def is_for_it_alone(self, number: int) -> bool:
        return self._numbers[0] == number
