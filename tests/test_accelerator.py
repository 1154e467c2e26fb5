"""A machine with GPUs gets the builds of torch and jax that its driver can run, and has to prove it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
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
    assert (bool(made.checks), made.torch_builds) == (bool(driver), {})
    assert made.digest != fitted("numpy", line, driver="525.0" if driver else "550.54.15").digest


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("torch==2.4.0+cu121", {}),
        ("torch @ https://example.org/torch.whl", {}),
        ("torch==2.4.0 --hash=sha256:00", {}),
        ("torch==2.4.0", {"UV_DEFAULT_INDEX": "https://example.org/simple"}),
        ("torch==2.4.0", {"UV_TORCH_BACKEND": "cu118"}),
        ("torch==2.4.0", {"UV_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cu118"}),
        ("lightning==2.4.0", {"UV_DEFAULT_INDEX": "https://example.org/simple"}),
        ("lightning==2.4.0 --hash=sha256:00", {}),
        ("--extra-index-url https://download.pytorch.org/whl/cu118\ntorch", {}),
        ("--index-url https://example.org/simple\nlightning", {}),
    ],
)
def test_what_names_its_build_is_left_as_it_is(line: str, variables: dict[str, str]) -> None:
    """But it has to prove that it works."""
    made = fitted(line, driver="550.54.15", variables=variables)
    assert dict(made.variables) == variables
    assert made.requirements == f"{line}\n"
    assert not made.torch_builds
    assert len(made.checks) == 2


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
    assert accelerator.fitted(recipe, facts(), same_computer=False) is recipe
    made = fitted("torch", "jax", driver="550.54.15", here=True)
    assert (made.requirements, dict(made.variables), made.checks) == ("torch\njax\n", {}, ())
    assert (made.torch_builds, made.jax_extra) == ({}, "")


@pytest.mark.parametrize(
    ("driver", "builds", "extra"),
    [
        ("580.65.06", {"2.4": "cu124", "2.9": "cu130"}, "cuda12"),
        ("550.54.15", {"2.4": "cu124", "2.9": "cu128"}, "cuda12"),
        ("470.57.02", {"2.4": "cu118", "2.9": "auto"}, ""),
    ],
)
def test_what_may_come_along_is_the_machine_s_to_find_out(
    driver: str, builds: dict[str, str], extra: str
) -> None:
    """With what it needs for that: which build of which release, and jax's plugin."""
    made = fitted("lightning", "flax", driver=driver)
    assert made.requirements == "lightning\nflax\n"
    assert {release: made.torch_builds[release] for release in builds} == builds
    assert made.jax_extra == extra
    assert len(made.checks) == 2
    assert fitted("flax", "jax-cuda12-plugin", driver=driver).jax_extra == ""
    assert made.digest != fitted("lightning", "flax", driver="525.60").digest


def test_the_proofs_are_programs(tmp_path: Path) -> None:
    """They need no more than the package that they try, and are content where that is not there."""
    (tmp_path / "torch.py").write_text(
        "from types import SimpleNamespace\n"
        "__version__, version = '2.9', SimpleNamespace(cuda='13.0')\n"
        "cuda = SimpleNamespace(is_available=lambda: False)\n"
    )

    def prove(check: str, **variables: str) -> tuple[int, str]:
        # Without the packages that are installed here.
        command = [sys.executable, "-S", "-c", check]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    torch, jax = fitted("lightning", driver="550.54.15").checks
    assert prove(torch) == prove(jax) == (0, "")
    code, said = prove(torch, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert "torch 2.9 was built for CUDA 13.0 and finds no GPU" in said
    assert "environment=" in said
