"""The shape of a dynamic resource: one that Dayfly makes itself, within Pulumi's own process for such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class CheckResult(NamedTuple):
    """What the engine reads of `check`."""

    inputs: dict[str, Any]
    failures: Sequence[Any] = ()


class CreateResult(NamedTuple):
    """What the engine reads of `create`: outs are an allow-list, since they are in clear in the state."""

    id: str
    outs: dict[str, Any]


class ReadResult(NamedTuple):
    """What the engine reads of `read`."""

    id: str | None
    outs: dict[str, Any]


class DiffResult(NamedTuple):
    """What the engine reads of `diff`."""

    changes: bool
    replaces: Sequence[str] = ()
    stables: Sequence[str] = ()
    delete_before_replace: bool = True


class DynamicProvider:
    """The operations of one dynamic resource, as Pulumi's provider process calls them.

    Pulumi asks for no base class, only for these methods, so that this file and all providers load without
    pulumi. Subclasses are importable, have no attributes and never change their dotted name: the state of
    every stack refers to them by it, and nothing else is ever unpickled from a state.
    """

    serialize_as_secret_always = False

    def configure(self, _req: object) -> None:
        """Stack configuration; no resource takes any."""

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Accepts the inputs: the Spec was checked when it was made."""
        return CheckResult(news)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Any changed input replaces the resource: a run's machine is never updated in place."""
        changed = [key for key in news if key != "__provider" and olds.get(key) != news[key]]
        return DiffResult(bool(changed), replaces=changed)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Creates and returns at once with the id; nothing fallible follows the creation."""
        raise AssertionError(f"{type(self).__name__} has no create")

    def read(self, id: str, props: dict[str, Any]) -> ReadResult:
        """Keeps what is known: a refresh must never forget a machine because a listing lags."""
        return ReadResult(id, props)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Deletes; gone already is success."""

    @classmethod
    def reference(cls) -> str:
        """The only `__provider` that a state may hold for this class: its dotted name, pickled and encoded.

        Protocol 4 by hand, since the SDK's own serialiser patches `pickle` of the interpreter it runs in.
        """
        # A plan that asks nobody has no use for them.
        import base64
        import pickle

        return base64.b64encode(pickle.dumps(cls(), protocol=4)).decode()
