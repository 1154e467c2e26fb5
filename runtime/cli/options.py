"""The options of a Spec, written once for every command that takes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

_PATH_ENDINGS = (".txt", ".in", ".lock", ".toml", ".pylock")


class SpecOption(NamedTuple):
    """One field of a Spec on the command line.

    Attributes:
        field: its name in the Spec.
        flags: how it is written.
        help: what it means.
        several: may be repeated.
        switch: takes no text.
    """

    field: str
    flags: tuple[str, ...]
    help: str
    several: bool = False
    switch: bool = False


SPEC_OPTIONS = (
    SpecOption("provider", ("--provider",), "Where to run; repeat it for a ladder.", several=True),
    SpecOption("instance_type", ("--instance-type",), "The provider's own name of a machine type."),
    SpecOption("region", ("--region",), "The provider's own name of a region; any if left out."),
    SpecOption(
        "spot", ("--spot",), 'true, false or "prefer": machines that the provider may take back.'
    ),
    SpecOption("image", ("--image",), "The provider's own name of the image to start from."),
    SpecOption("host", ("--host",), 'The existing machine, as `ssh` takes it; for "ssh" alone.'),
    SpecOption("cores", ("--cores",), "Virtual cores at least."),
    SpecOption("memory", ("--memory",), 'Memory at least, "32GB".'),
    SpecOption("disk", ("--disk",), 'Free disk at least, "100GB".'),
    SpecOption(
        "gpu", ("--gpu",), 'GPUs at least, "A100:1", "24GB..48GB:2" or "H100:8,A100-80GB:8".'
    ),
    SpecOption("nodes", ("--nodes",), "Machines in the stack."),
    SpecOption(
        "distributed",
        ("--distributed",),
        '"torchrun" runs the function on each machine, with a rank.',
    ),
    SpecOption("python", ("--python",), "major.minor; must be this client's own."),
    SpecOption(
        "environment",
        ("--environment",),
        'A requirements file, "live", or a requirement (repeat it for several).',
        several=True,
    ),
    SpecOption(
        "system_packages",
        ("--system-package",),
        "NAME of a package of the machine's own package manager; repeat it for several.",
        several=True,
    ),
    SpecOption(
        "secrets",
        ("--secret",),
        "NAME of an environment variable that the function may see; repeat it for several.",
        several=True,
    ),
    SpecOption(
        "file_systems",
        ("--file-system",),
        "NAME of a persistent file system of the provider to mount; repeat it for several.",
        several=True,
    ),
    SpecOption(
        "allow_cidr",
        ("--allow-cidr",),
        'IPv4 network that may reach the machine, "203.0.113.7/32"; this computer if left out.',
    ),
    SpecOption(
        "max_runtime", ("--max-runtime", "--time"), 'The machine ends after this, "90m", "24h".'
    ),
    SpecOption("max_cost", ("--max-cost",), "Dollars that the run may cost at most."),
    SpecOption(
        "max_price", ("--max-price",), "Dollars an hour that its machines may cost together."
    ),
    SpecOption("hold", ("--hold",), "How long a result waits when this client is gone."),
    SpecOption(
        "grace", ("--grace",), 'How long a function may take to end that is asked to, "2m".'
    ),
    SpecOption(
        "keep",
        ("--keep",),
        'The machine stays for the next call of the same options: "10m", "on-failure", "always".',
    ),
    SpecOption(
        "outputs", ("--outputs",), "FOLDER here for what the function leaves in DAYFLY_OUTPUT_DIR."
    ),
    SpecOption(
        "checkpoints",
        ("--checkpoints",),
        'URL of a bucket\'s folder, "s3://bucket/folder", that keeps DAYFLY_CHECKPOINT_DIR.',
    ),
    SpecOption("retries", ("--retries",), "Further attempts after a failure."),
    SpecOption("max_machines", ("--max-machines",), "Machines to try where one is unfit (3)."),
    SpecOption(
        "wait_for_teardown",
        ("--wait-for-teardown/--no-wait-for-teardown",),
        "Have the value only when the machine is proved gone.",
        switch=True,
    ),
    SpecOption("job_name", ("--job-name",), "A label for people."),
    SpecOption(
        "min_gpu_utilization",
        ("--min-gpu-utilization",),
        "Percent; a run whose GPU stays below for the window is ended.",
    ),
    SpecOption("gpu_utilization_window", ("--gpu-utilization-window",), 'That window, "1h".'),
)


def spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command every option of a Spec; what was given comes as its argument `options`, ready for a Spec."""
    fields = {option.field for option in SPEC_OPTIONS}

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        rest = {name: value for name, value in values.items() if name not in fields}
        given = {n: v for n, v in values.items() if n in fields and v is not None and v != ()}
        lists = {n: list(v) for n, v in given.items() if isinstance(v, tuple)}
        command(**rest, options=parsed({**given, **lists}))

    found: Callable[..., None] = wrapped
    # The last to be added is the first of the help.
    for option in reversed(SPEC_OPTIONS):
        found = _added(option)(found)
    return found


def _added(option: SpecOption) -> Callable[[Callable[..., None]], Callable[..., None]]:
    word = (
        "NAME"
        if option.field in ("secrets", "file_systems", "system_packages")
        else option.field.upper()
    )
    return click.option(
        *option.flags,
        option.field,
        help=option.help,
        metavar=None if option.switch else word,
        multiple=option.several,
        default=None,
    )


def parsed(given: dict[str, Any]) -> dict[str, Any]:
    """The command line's texts as a Spec takes them."""
    from dayfly.stacks import settings

    options = {name: value for name, value in given.items() if not isinstance(value, str)}
    options |= settings.from_texts({n: v for n, v in given.items() if isinstance(v, str)})
    if "provider" in options:
        options["provider"] = [p for text in options["provider"] for p in text.split(",") if p]
    if "environment" in options:
        options["environment"] = _environment(options["environment"])
    return options


def _environment(texts: Sequence[str]) -> str | list[str]:
    """One file, or "live", stays a text; anything else is a list of requirements."""
    only = texts[0]
    # Names in brackets behind a file are extras of the project.
    file = only.partition("[")[0] if only.endswith("]") else only
    if len(texts) == 1 and (only == "live" or file.endswith(_PATH_ENDINGS) or Path(file).exists()):
        return only
    return list(texts)


def refuse_late_options(arguments: Sequence[str]) -> None:
    """An option of ours behind the function would be handed to the function as a text.

    Raises:
        SpecError: there is one.
    """
    from dayfly.errors import SpecError

    flags = {part for option in SPEC_OPTIONS for flag in option.flags for part in flag.split("/")}
    for argument in arguments:
        if argument.partition("=")[0] in flags | {"--json", "--detach"}:
            raise SpecError(f"{argument}: options of Dayfly go before MODULE:FUNCTION")
