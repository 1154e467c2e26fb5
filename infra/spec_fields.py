"""The fields of a Spec: what each may be, and the form in which it is kept."""

from __future__ import annotations

import ipaddress
import re
import sys
from os import PathLike, fspath
from pathlib import Path

from dayfly.errors import SpecError
from dayfly.infra import providers
from dayfly.infra.gpu_request import GpuRequest
from dayfly.infra.units import shown, suggestion

# What concerns the call and not the machine: the environment is made, or found made, by its own digest.
OF_THE_CALL = frozenset(
    {
        "python",
        "environment",
        "secrets",
        "hold",
        "grace",
        "outputs",
        "checkpoints",
        "retries",
        "max_machines",
        "wait_for_teardown",
        "job_name",
        "min_gpu_utilization",
        "gpu_utilization_window",
    }
)
# The user of an address may be a token; that of an SSH address is a name, and its key is elsewhere.
_CREDENTIALS = (
    (r"(?<!ssh)(://)[^\s/?#]*@", r"\1[secret]@"),
    (
        r"(?i)([?&][^\s=&#]*(?:token|key|sig|secret|passw|cred)[^\s=&#]*=)[^\s&#]+",
        r"\1[secret]",
    ),
)
# A version behind "=" is what apt takes; what begins with a hyphen would be an option.
_PACKAGE = r"[A-Za-z0-9][A-Za-z0-9+._-]*(:[a-z0-9]+)?(=[A-Za-z0-9][A-Za-z0-9+.:~-]*)?"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


def without_credentials(requirement: str) -> str:
    """A requirement with what its address has of tokens and passwords masked."""
    for pattern, replacement in _CREDENTIALS:
        requirement = re.sub(pattern, replacement, requirement)
    return requirement


def checked_providers(value: object) -> tuple[str, ...]:
    """Names of providers, as a ladder; each of these raises SpecError for what cannot be."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise SpecError(f"provider={value!r} must be a name or a list of names")
    for name in names:
        if name not in providers.names():
            raise SpecError(
                f"unknown provider {name!r}; {suggestion(str(name), providers.names())}"
            )
    return tuple(names)


def checked_gpu(value: object) -> str | None:
    """As one text, which people read as they wrote it."""
    if value is None:
        return None
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise SpecError(f'gpu={shown(value)} must be a text, "A100:1", or a list of texts')
    whole = ",".join(texts)
    GpuRequest.parse(whole)
    return whole


def checked_secrets(value: object) -> tuple[str, ...]:
    """Names of environment variables."""
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise SpecError(
            f'secrets={value!r} must be a list of variable names, secrets=["WANDB_API_KEY"]'
        )
    for name in value:
        if not isinstance(name, str) or not re.match(_VARIABLE, name):
            # The value is not repeated: people paste the secret itself here.
            raise SpecError("secrets= takes names of environment variables, not values")
    return tuple(value)


def checked_file_systems(value: object) -> tuple[str, ...]:
    """Names of file systems, each once."""
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise SpecError(
            f'file_systems={value!r} must be a list of names, file_systems=["datasets"]'
        )
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise SpecError(f"file_systems={list(value)!r}: {name!r} is not a name")
    if len(set(value)) != len(value):
        raise SpecError(f"file_systems={list(value)!r} names one of them twice")
    return tuple(value)


def checked_packages(value: object) -> tuple[str, ...]:
    """Names of system packages, as apt and dnf take them."""
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise SpecError(
            f'system_packages={shown(value)} must be a list of names, system_packages=["ffmpeg"]'
        )
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(_PACKAGE, name):
            raise SpecError(
                f"system_packages={list(value)!r}: {name!r} is no name of a package as apt and dnf have them"
            )
    return tuple(dict.fromkeys(value))


def checked_network(value: object) -> str | None:
    """An IPv4 network."""
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise ValueError("not a text")
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        raise SpecError(
            f'allow_cidr={value!r} is not an IPv4 network ({error}); write "203.0.113.7/32"'
        ) from None


def checked_folder(value: object) -> str | None:
    """An absolute path: whoever brings them home later may work in another folder."""
    if value is None:
        return None
    path = fspath(value) if isinstance(value, str | PathLike) else ""
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise SpecError(
            f'outputs={shown(value)} must be a folder of this computer, outputs="./results"'
        )
    folder = Path(path).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"outputs={shown(value)} is a file; name a folder")
    return str(folder)


def checked_environment(value: object) -> str | tuple[str, ...] | None:
    """Requirements, a file of them, or "live"."""
    if isinstance(value, str) and not value.strip():
        raise SpecError(
            f"environment={value!r} is empty: leave it out for the project's own, or write [] for the standard library alone"
        )
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise SpecError(f'environment={value!r} must be a list of requirements, a file, "live" or None')


def check_python(wanted: object) -> None:
    """Refuses another minor than the client's own."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if wanted is not None and wanted != own:
        raise SpecError(
            f"python={wanted!r}, but this client is Python {own}; a function travels as bytecode, which"
            f" another minor version misreads: run the client with Python {wanted}, or leave python= out"
        )
