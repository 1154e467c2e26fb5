"""Wheels that fit a machine's GPUs: which build of torch and of jax it gets, and the proof that they work there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from dayfly.runtime.environment import Recipe
    from dayfly.runtime.records import Facts

# The driver that CUDA's builds of one major version ask for at least, on Linux; within a major version the older driver does.
_CUDA_11, _CUDA_12, _CUDA_13 = (450, 80), (525, 60), (580, 0)
# For which CUDA each release of torch was built; of a release that is not listed uv's own choice is the best.
_TORCH_INDEX = "download.pytorch.org"
_TORCH: Mapping[tuple[int, int], tuple[str, ...]] = {
    (2, 0): ("cu118", "cu117"),
    (2, 1): ("cu121", "cu118"),
    (2, 2): ("cu121", "cu118"),
    (2, 3): ("cu121", "cu118"),
    (2, 4): ("cu124", "cu121", "cu118"),
    (2, 5): ("cu124", "cu121", "cu118"),
    (2, 6): ("cu126", "cu124", "cu118"),
    (2, 7): ("cu128", "cu126", "cu118"),
    (2, 8): ("cu129", "cu128", "cu126"),
    (2, 9): ("cu130", "cu128", "cu126"),
    (2, 10): ("cu130", "cu128", "cu126"),
}
# Nothing names it, and it may not have come along.
_ABSENT = """
import importlib.util
if importlib.util.find_spec({!r}) is None:
    raise SystemExit(0)
"""
_TORCH_CHECK = """
import torch
if not torch.cuda.is_available():
    raise SystemExit(f"torch {torch.__version__} was built for CUDA {torch.version.cuda} and finds no GPU that it can use:"
        " name one that does in environment=, as in 'torch==2.6.0+cu118'")
for number in range(torch.cuda.device_count()):
    ones = torch.ones(1024, device=f"cuda:{number}")
    if float((ones + ones).sum()) != 2048.0:
        raise SystemExit(f"torch {torch.__version__} computes wrong on GPU {number}")
print(f"torch {torch.__version__} works on {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
"""
_JAX_CHECK = """
import os
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
import jax, jax.numpy
try:
    devices = jax.devices("gpu")
except RuntimeError as error:
    raise SystemExit(f"jax {jax.__version__} finds no GPU that it can use: {error}; name the plugin in environment=, as in"
        " 'jax[cuda12]'")
for device in devices:
    if float(jax.device_put(jax.numpy.ones(1024), device).sum()) != 1024.0:
        raise SystemExit(f"jax {jax.__version__} computes wrong on {device}")
print(f"jax {jax.__version__} works on {len(devices)} x {devices[0].device_kind}")
"""
_CHECKS = (_ABSENT.format("torch") + _TORCH_CHECK, _ABSENT.format("jax") + _JAX_CHECK)


def fitted(recipe: Recipe, facts: Facts, *, same_computer: bool) -> Recipe:
    """The recipe with the builds of torch and jax that work with the machine's GPUs, and the programs that prove it.

    What names its build itself is left as it is: a version with a label ("2.4.0+cu121"), an address, a hash, a torch
    backend or a default index among the settings of uv, an index of torch's. So is everything on this computer, where the
    user's own environment shows what is right. What no line names may come along with what is named, which only the
    machine finds out: it is told what to do then.

    Args:
        recipe: what is to be installed.
        facts: the machine's.
        same_computer: whether it is this computer.
    """
    lines = recipe.requirements.splitlines()
    torch, jax = _named(lines, "torch"), _named(lines, "jax")
    gpu = bool(facts.gpus) and facts.platform.startswith("linux")
    if same_computer or not (gpu or torch):
        return recipe
    variables = dict(recipe.variables)
    decided = _is_decided(variables, lines)
    # Where one line has its hash, nothing comes that has none.
    may_come = gpu and not any("--hash" in line for line in lines)
    builds: Mapping[str, str] = {}
    extra = ""
    if torch is None and may_come and not decided:
        builds = _torch_builds(facts.driver)
    elif torch is not None and _is_open(torch) and not decided:
        variables["UV_TORCH_BACKEND"] = _torch_backend(torch, facts.driver if gpu else "")
    if gpu and not _has_plugin(lines):
        if jax is None and may_come and _driver(facts.driver) >= _CUDA_12:
            extra = "cuda12"
        elif jax is not None and _is_open(jax):
            lines = [_with_cuda(line, facts.driver) if line == jax else line for line in lines]
    backend = variables.get("UV_TORCH_BACKEND", "") if torch is not None else ""
    driver = f"driver {facts.driver}" if gpu else ""
    return dataclasses.replace(
        recipe,
        requirements="".join(f"{line}\n" for line in lines),
        variables=variables,
        hardware=", ".join(filter(None, (backend, driver))),
        checks=_CHECKS if gpu else (),
        torch_builds=builds,
        jax_extra=extra,
    )


def _named(lines: list[str], name: str) -> str | None:
    """The line that asks for a distribution."""
    return next((line for line in lines if _parsed_name(line) == name), None)


def _parsed_name(line: str) -> str:
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
    return canonicalize_name(match[0]) if match else ""


def _is_open(line: str) -> bool:
    """Whether it leaves open which build of a version is meant."""
    return not any(mark in line for mark in ("+", "@", "--hash"))


def _is_decided(variables: Mapping[str, str], lines: list[str]) -> bool:
    """Whether the user has said by settings, or by options among the lines, where torch comes from."""
    names = ("UV_TORCH_BACKEND", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_OFFLINE")
    options = [line for line in lines if line.startswith("-")]
    own = any(re.match(r"-i\b|--index-url\b|--no-index\b", option) for option in options)
    told = [*options, *(value for name, value in variables.items() if name.startswith("UV_"))]
    return (
        own
        or any(variables.get(name) for name in names)
        or any(_TORCH_INDEX in text for text in told)
    )


def _torch_backend(line: str, driver: str) -> str:
    """The newest CUDA that a pinned release was built for and the driver can; what is not pinned is uv's to choose."""
    if not driver:
        return "cpu"
    return _torch_builds(driver).get(".".join(map(str, _release(line) or ())), "auto")


def _torch_builds(driver: str) -> dict[str, str]:
    """The newest CUDA that each release was built for and the driver can; "auto" leaves it to uv."""
    return {
        f"{major}.{minor}": next(
            (cuda for cuda in built_for if _driver(driver) >= _least_driver(cuda)), "auto"
        )
        for (major, minor), built_for in _TORCH.items()
    }


def _least_driver(cuda: str) -> tuple[int, int]:
    return {"cu11": _CUDA_11, "cu12": _CUDA_12}.get(cuda[:4], _CUDA_13)


def _driver(text: str) -> tuple[int, int]:
    numbers = [int(part) for part in re.findall(r"\d+", text)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _release(line: str) -> tuple[int, int] | None:
    """Major and minor of a line that pins a version."""
    try:
        specifiers = list(Requirement(line).specifier)
    except InvalidRequirement:
        return None
    pinned = [s.version for s in specifiers if s.operator in ("==", "===", "~=")]
    match = re.match(r"(\d+)\.(\d+)", pinned[0]) if pinned else None
    return (int(match[1]), int(match[2])) if match else None


def _has_plugin(lines: list[str]) -> bool:
    return any(_parsed_name(line).startswith("jax-cuda") for line in lines)


def _with_cuda(line: str, driver: str) -> str:
    """`jax==0.6` as `jax[cuda12]==0.6`; a driver that is too old for it is left to the check to tell of."""
    wanted = Requirement(line)
    if any(extra.startswith("cuda") for extra in wanted.extras) or _driver(driver) < _CUDA_12:
        return line
    wanted.extras.add("cuda12")
    return str(wanted)
