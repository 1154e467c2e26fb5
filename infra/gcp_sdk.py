"""Google's client library for Compute Engine, without the hundred services of it that nothing here asks."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
import types
from typing import Any

_PACKAGE = "google.cloud.compute_v1"
_LOCK = threading.Lock()


@functools.cache
def service(name: str) -> Any:
    """The module of one service, as `google.cloud.compute_v1.services.instances`.

    The package's own `__init__` imports all of its 110 services, which takes 5 s where one takes 2: a stand-in for it, which
    is gone again before anybody else can see it, lets the one be imported alone.
    """
    with _LOCK:
        return _alone(f"{_PACKAGE}.services.{name}")


@functools.cache
def messages() -> Any:
    """The module with all requests and resources."""
    with _LOCK:
        return _alone(f"{_PACKAGE}.types.compute")


def _alone(module: str) -> Any:
    if _PACKAGE in sys.modules:
        return importlib.import_module(module)
    import google.cloud

    found = importlib.util.find_spec(_PACKAGE)
    assert found is not None
    standin = types.ModuleType(_PACKAGE)
    standin.__spec__ = found
    standin.__path__ = list(found.submodule_search_locations or ())
    sys.modules[_PACKAGE] = standin
    try:
        return importlib.import_module(module)
    finally:
        del sys.modules[_PACKAGE]
        if getattr(google.cloud, "compute_v1", None) is standin:
            del google.cloud.compute_v1
