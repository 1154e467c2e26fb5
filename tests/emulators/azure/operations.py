"""What takes its time in the emulated Azure, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.emulators.azure.refusal import ArmError
from tests.emulators.azure.things import Operation

_END_S = 60.0


class Operations:
    """All that there were, by their ids."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[str, Operation] = {}
        self._threads: list[threading.Thread] = []

    def of(self, id: str) -> Operation:
        """The one that a client follows.

        Raises:
            ArmError: there is none.
        """
        with self._lock:
            if id not in self._all:
                raise ArmError(404, "NotFound", f"There is no operation {id}.")
            return self._all[id]

    def begin(self, act: Callable[[], None]) -> Operation:
        """Begins one; what it raises is its error."""
        operation = Operation()

        def work() -> None:
            try:
                act()
            except ArmError as error:
                operation.error = error
            finally:
                operation.over.set()

        thread = threading.Thread(target=work, name="azure-operation", daemon=True)
        with self._lock:
            self._all[operation.id] = operation
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()
        return operation

    def close(self) -> None:
        """Waits until all have ended."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(_END_S)
