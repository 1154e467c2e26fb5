"""A machine with GPUs gets the builds of torch and jax that its driver can run, and has to prove it."""

from __future__ import annotations

from typing import Any

import pytest

from dayfly.runtime import accelerator
from dayfly.runtime.environment import Recipe
from dayfly.runtime.records import Facts


def facts(driver: str = "", platform: str = "linux-x86_64") -> Facts:
    gpus = ("NVIDIA A100",) if driver else ()
    return Facts("node", platform, "glibc2.35", ("3.11",), 8, 1, 1, 7, gpus, driver)


def fitted(
    *lines: str, driver: str = "", here: bool = False, variables: dict[str, str] | None = None
) -> Recipe:
    text = "".join(f"{line}\n" for line in lines)
    recipe = Recipe("3.11", text, (), "a list", variables or {})
    return accelerator.fitted(recipe, facts(driver), same_computer=here)


@pytest.mark.parametrize(
    ("line", "driver", "backend"),
    [
        ("torch", "550.54.15", "auto"),
        ("torch>=2.2", "550.54.15", "auto"),
        ("torch==2.4.0", "550.54.15", "cu124"),
        ("torch==2.4.1", "470.57.02", "cu118"),
        ("torch[opt-einsum]==2.9.0 ; python_version > '3'", "550.54.15", "cu128"),
        ("torch==2.9.0", "580.65.06", "cu130"),
        ("torch==2.9.0", "470.57.02", "auto"),
        ("torch==3.1.0", "580.65.06", "auto"),
        ("torch==2.4.0", "", "cpu"),
        ("torch", "", "cpu"),
    ],
)
def test_torch_is_built_for_what_the_driver_can(line: str, driver: str, backend: str) -> None:
    """By the release where one is pinned; else uv chooses, on the machine; without a GPU nothing of CUDA comes."""
    made = fitted("numpy", line, driver=driver)
    assert made.variables["UV_TORCH_BACKEND"] == backend
    assert made.requirements == f"numpy\n{line}\n"
    assert bool(made.checks) is bool(driver)
    assert made.digest != fitted("numpy", line, driver="525.0" if driver else "550.54.15").digest


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("torch==2.4.0+cu121", {}),
        ("torch @ https://example.org/torch.whl", {}),
        ("torch==2.4.0 --hash=sha256:00", {}),
        ("torch==2.4.0", {"UV_DEFAULT_INDEX": "https://example.org/simple"}),
        ("torch==2.4.0", {"UV_TORCH_BACKEND": "cu118"}),
    ],
)
def test_what_names_its_build_is_left_as_it_is(line: str, variables: dict[str, str]) -> None:
    """But it has to prove that it works."""
    made = fitted(line, driver="550.54.15", variables=variables)
    assert dict(made.variables) == variables
    assert len(made.checks) == 1


@pytest.mark.parametrize(
    ("line", "driver", "wanted"),
    [
        ("jax==0.4.30", "550.54.15", "jax[cuda12]==0.4.30"),
        ("jax", "580.1", "jax[cuda12]"),
        ("jax[cuda13]", "580.1", "jax[cuda13]"),
        ("jax==0.4.30", "", "jax==0.4.30"),
        ("jax", "470.57", "jax"),
    ],
)
def test_jax_gets_its_plugin(line: str, driver: str, wanted: str) -> None:
    """Where there is a GPU whose driver can run it, and the user has not chosen one."""
    made = fitted(line, driver=driver)
    assert made.requirements == f"{wanted}\n"
    assert bool(made.checks) is bool(driver)


def test_a_plugin_of_the_users_is_enough() -> None:
    """As the live environment of a machine with a GPU has it."""
    lines = ("jax==0.6", "jax-cuda12-plugin==0.6")
    assert fitted(*lines, driver="550.54.15").requirements == "jax==0.6\njax-cuda12-plugin==0.6\n"


def test_this_computer_and_other_packages_are_left_alone() -> None:
    """What is installed here shows what is right here."""
    recipe: Any = Recipe("3.11", "numpy\ntorchmetrics\n", (), "a list")
    assert accelerator.fitted(recipe, facts("550.54"), same_computer=False) is recipe
    made = fitted("torch", "jax", driver="550.54.15", here=True)
    assert (made.requirements, dict(made.variables), made.checks) == ("torch\njax\n", {}, ())


def test_the_proofs_are_programs() -> None:
    """They compile, and need no more than the package that they try."""
    for check in fitted("torch", "jax", driver="550.54.15").checks:
        compile(check, "<check>", "exec")
