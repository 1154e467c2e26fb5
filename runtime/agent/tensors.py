"""Tensors of torch in a pickle: their memory goes into it as it lies, and comes out of it where it stays.

Torch itself writes a tensor's storage into a buffer of its own, and pickles that: on both ends it is in memory several times. And what
shares a storage does so no more afterwards. All else that makes a tensor (type, shape, gradient, subclass) stays torch's.
"""

from __future__ import annotations

import sys

from .layout import IS_ARRAY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Tensors:
    """The storages of one pickle; each goes into it once, whatever shares it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], _Memory] = {}

    def reduced(self, obj: Any) -> tuple[Any, ...] | None:
        """Give what stands in the pickle for a storage in this computer's own memory; None for anything else."""
        if type(obj) is _Memory:
            return untyped, (obj.buffer(),)
        storages = sys.modules.get("torch.storage")
        if type(obj) is getattr(storages, "TypedStorage", None):
            storage, dtype = getattr(obj, "_untyped_storage", None), obj.dtype
        elif type(obj) is getattr(storages, "UntypedStorage", None):
            # As torch gives it back, where it stands in a pickle alone.
            storage, dtype = obj, sys.modules["torch"].uint8
        else:
            return None
        memory = self._memory(storage)
        return None if memory is None else (typed, (memory, dtype))

    def _memory(self, storage: Any) -> _Memory | None:
        if storage is None or storage.device.type != "cpu":
            return None
        place, size = storage.data_ptr(), storage.nbytes()
        if not place or not size:
            return None
        return self._known.setdefault((place, size), _Memory(storage, place, size))


class _Memory:
    """The bytes of a storage; one for all that share it, so that a pickle knows it again."""

    def __init__(self, storage: Any, place: int, size: int) -> None:
        self._storage, self._place, self._size = storage, place, size

    def buffer(self) -> Any:
        """Give them as a pickle takes them without a copy; what holds them keeps the storage."""
        from ctypes import c_ubyte
        from pickle import PickleBuffer

        view: Any = (c_ubyte * self._size).from_address(self._place)
        view.storage = self._storage
        setattr(view, IS_ARRAY, True)
        return PickleBuffer(view)


def is_atom(value: Any) -> bool:
    """Tell what is small and has a form of its own in a pickle; by identity, since a class may compare as it likes."""
    kind = type(value)
    return value is None or kind is int or kind is float or kind is bool


def dump(value: Any, writer: Any) -> None:
    """Pickle a value to `writer`; where torch is not in this process, as cloudpickle does."""
    if is_atom(value):
        from pickle import dumps

        writer.write(dumps(value, protocol=5))
        return
    import cloudpickle

    if "torch" not in sys.modules:
        cloudpickle.Pickler(writer, protocol=5).dump(value)
        return
    tensors, here = Tensors(), sys.modules[__name__]

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            reduced = tensors.reduced(obj)
            return super().reducer_override(obj) if reduced is None else reduced

    # Whoever loads it has no such module.
    cloudpickle.register_pickle_by_value(here)
    try:
        Pickler(writer, protocol=5).dump(value)
    finally:
        cloudpickle.unregister_pickle_by_value(here)


# -- in the pickle: nothing of this module is there where it is loaded


def untyped(data: Any) -> Any:
    """A storage in the memory into which the pickle was read."""
    from importlib import import_module

    torch = import_module("torch")
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()


def typed(storage: Any, dtype: Any) -> Any:
    """The same, as it is of a type."""
    from importlib import import_module

    storages = import_module("torch.storage")
    return storages.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
