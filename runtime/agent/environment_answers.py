"""The environment of the function, made while the client hears how."""

from __future__ import annotations

import os

from .environment import Environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any

    from .channel import Channel
    from .store import Store


class EnvironmentAnswers:
    """Environments by their hash, and what is busy making them."""

    def __init__(self, channel: Channel, store: Store, cache: str) -> None:
        self._channel, self._store, self._cache = channel, store, cache
        self._builds: set[Popen[str]] = set()
        self._making: set[Environment] = set()

    def on_environment(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make the environment, or find it made; without uv in the request only the latter."""
        environment = Environment(
            self._cache, self._channel.run_id, self._store, self._builds, request
        )
        if not request["uv"]:
            return {"python": environment.ready()}

        def emit(line: str) -> None:
            self._channel.emit(request, {"line": line})

        self._making.add(environment)
        try:
            return {"python": environment.build(emit)}
        finally:
            self._making.discard(environment)

    def on_system_packages(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Install packages of the system, as far as they are not there."""
        from .system_packages import SystemPackages

        SystemPackages(self._cache, request["names"]).install(
            lambda line: self._channel.emit(request, {"line": line})
        )
        return {}

    def close(self) -> None:
        """End what is still being made: nobody hears of it."""
        import signal

        for build in list(self._builds):
            try:
                os.killpg(build.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for environment in list(self._making):
            try:
                environment.leave()
            except OSError:
                continue  # Its folder has gone.
