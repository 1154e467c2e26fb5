"""The providers: one file each, found by its name. No registry, no list kept by hand."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dayfly.infra.providers.base import Provider

_ALIASES = {"lambda": "lambda_cloud"}  # `lambda` is a keyword, so no module can have that name


@functools.cache
def names() -> tuple[str, ...]:
    """Names of all providers, as `provider=` takes them."""
    files = {module.name for module in pkgutil.iter_modules(__path__)} - {"base"}
    spelled = {file: name for name, file in _ALIASES.items()}
    return tuple(sorted(spelled.get(file, file) for file in files))


@functools.cache
def load(name: str) -> Provider:
    """The provider of that name.

    Raises:
        KeyError: no file of that name; `Spec` has refused it long before with a suggestion.
    """
    if name not in names():
        raise KeyError(name)
    module = importlib.import_module(f"{__name__}.{_ALIASES.get(name, name)}")
    provider: Provider = module.PROVIDER
    return provider
