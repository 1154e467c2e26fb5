"""What a test makes AWS do wrong: an operation that is refused, slow, or carried out without an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field


class Refused(Exception):
    """The API says no."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass
class Fault:
    """One thing that goes wrong.

    Attributes:
        action: AWS's own name of the operation, "RunInstances".
        code: that it is refused with; "" for one that is only late.
        message: of the refusal.
        status: of the answer.
        times: how often.
        after: it is carried out, and refused all the same.
        delay_s: it takes so much longer.
    """

    action: str
    code: str = ""
    message: str = "a fault of the test's"
    status: int = 400
    times: int = 1
    after: bool = False
    delay_s: float = 0.0

    @property
    def refusal(self) -> Refused:
        """What is answered."""
        return Refused(self.code, self.message, self.status)


@dataclass
class Faults:
    """Those that are still to come."""

    waiting: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, faults: Iterable[Fault]) -> None:
        """Behind those that are waiting."""
        with self._lock:
            self.waiting += list(faults)

    def clear(self) -> None:
        """None any more."""
        with self._lock:
            self.waiting.clear()

    def take(self, action: str) -> Fault | None:
        """The one that this call meets, after its delay."""
        with self._lock:
            found = next((each for each in self.waiting if each.action == action), None)
            if found is not None:
                found.times -= 1
                if found.times <= 0:
                    self.waiting.remove(found)
        if found is not None:
            time.sleep(found.delay_s)
        return found if found is not None and found.code else None
