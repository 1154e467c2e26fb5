"""Owned: whether all that a state names is its run's own. The engine deletes what a state names, whoever has written that."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from dayfly.errors import DayflyError
from dayfly.infra import providers
from dayfly.infra.found import Found
from dayfly.infra.held import Held, Whose
from dayfly.infra.providers.base import Provider
from dayfly.infra.vendor import VendorProvider
from dayfly.stacks.absence import places_of
from dayfly.stacks.journal import History
from dayfly.stacks.state import State, StateUnusable

_DYNAMIC = "pulumi-python:dynamic"
_PROVIDERS = "pulumi:providers:"


class Owned:
    """What a run has at its provider, as far as a state can be held against it.

    Args:
        history: the run's journal.
        owner: whose it is, by tag.
    """

    def __init__(self, history: History, owner: str) -> None:
        self._history = history
        self._owner = owner
        self._provider: Provider = providers.load(history.provider)

    @functools.cached_property
    def left(self) -> Sequence[Found]:
        """What the provider lists of the run.

        Raises:
            DayflyError, OSError: it cannot be asked.
        """
        where = places_of(self._history)
        return self._provider.left_of(self._history.id, self._owner, where)

    def machines(self, state: State) -> int:
        """How many machines a state has; where a provider has no type of them, how many resources."""
        return len(self._machines(state))

    def unrecorded(self, state: State) -> list[Found]:
        """Machines of the run that its state does not have, and that nothing in it takes along when that is deleted.

        The engine was killed while the plugin created one, say; what the machine uses cannot be deleted before it has ended.
        """
        provider = self._provider
        if not isinstance(provider, VendorProvider) or provider.ends_as_one:
            return []
        if self._history.last("up_ended") is not None:
            return []
        held = {each.id for each in self._machines(state)}
        return [
            found
            for found in self.left
            if found.kind == "instance"
            and found.state != "stopping"
            and not {found.id, found.id.rpartition("/")[2]} & held
        ]

    def check(self, state: State) -> None:
        """Refuses a state that has anything but the run's own.

        Raises:
            StateUnusable: it names what no run has, or what is not known to be this run's.
        """
        for each in _held(state):
            if not self._is_own(each):
                raise StateUnusable(
                    f"the state has {each.type} {each.id}, which is not known to be this run's; it was not given to the"
                    " engine"
                )

    def _is_own(self, held: Held) -> bool:
        if held.type.startswith(_PROVIDERS) and held.inputs.get("pluginDownloadURL"):
            return False  # Another plugin than the one of that name.
        provider = self._provider
        if not isinstance(provider, VendorProvider):
            return held.type.removeprefix(_PROVIDERS).startswith(("pulumi-python", _DYNAMIC))
        try:
            if held.type == _PROVIDERS + provider.plugin:
                # The engine's own note is empty as long as nobody has another plugin taken than the one of that name.
                told = [_settings(held.inputs), *filter(None, [_settings(held.outputs)])]
                return all(provider.sets(each, self._whose) for each in told)
            known = held.type in {*provider.free, provider.machine}
            return known and (not held.id or provider.owns(held, self._whose))
        except (DayflyError, OSError) as trouble:
            raise StateUnusable(f"whose {held.id} is cannot be asked: {trouble}") from trouble

    @functools.cached_property
    def _whose(self) -> Whose:
        history = self._history
        return Whose(
            history.id,
            str(history.intent.get("offer", {}).get("region", "")),
            str(history.intent.get("place") or self._provider.place()),
            lambda: {found.id for found in self.left},
        )

    def _machines(self, state: State) -> list[Held]:
        provider = self._provider
        of_type = provider.machine if isinstance(provider, VendorProvider) else ""
        outside = (each for each in _held(state) if not each.type.startswith(_PROVIDERS))
        return [each for each in outside if of_type in ("", each.type)]


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "__internal" or value}


def _held(state: State) -> list[Held]:
    """Whatever the engine would delete, or delete with; what stands for nothing outside is left out."""
    return [
        Held(
            str(each.get("type", "")),
            str(each.get("id") or ""),
            each.get("inputs") or {},
            each.get("outputs") or {},
        )
        for each in state.held
        if each.get("custom")
    ]
