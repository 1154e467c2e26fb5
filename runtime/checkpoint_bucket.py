"""Checkpoints in a bucket: what this computer sees to before the machine keeps DAYFLY_CHECKPOINT_DIR there by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from dayfly.errors import SpecError
from dayfly.infra import bucket_url, providers
from dayfly.infra.spec import Spec
from dayfly.infra.units import human_bytes
from dayfly.runtime.cargo import with_needed
from dayfly.runtime.data import BACKENDS
from dayfly.runtime.tree import printable

if TYPE_CHECKING:
    from dayfly.runtime.attend import Attendance
    from dayfly.runtime.environment import Recipe
    from dayfly.runtime.session import Session

# What the library of each kind of bucket looks at, one complete set a line; FSSPEC_S3, FSSPEC_S3_KEY and the like are settings of
# fsspec itself, and may hold anything.
_CREDENTIALS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "s3": (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),),
    "gs": (),
    "az": (
        ("AZURE_STORAGE_CONNECTION_STRING",),
        ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_SAS_TOKEN"),
        (
            "AZURE_STORAGE_ACCOUNT_NAME",
            "AZURE_STORAGE_TENANT_ID",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_STORAGE_CLIENT_SECRET",
        ),
    ),
}
_FAMILIES = {"gcs": "gs", "abfs": "az"}
# That of gcsfs takes the text of a key; the file that GOOGLE_APPLICATION_CREDENTIALS names is on this computer.
_EXAMPLES = {
    "s3": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    "gs": ["FSSPEC_GS"],
    "az": ["AZURE_STORAGE_CONNECTION_STRING"],
}


def check(spec: Spec) -> None:
    """Refuses a bucket that the machine could not open.

    Raises:
        SpecError: it gets no credentials, and has none of its own.
    """
    assert spec.checkpoints is not None
    scheme = bucket_url.scheme_of(spec.checkpoints)
    family = _FAMILIES.get(scheme, scheme)
    # A machine that is this computer has what its user has; those of no other provider have an identity of their own.
    if any(providers.load(name).same_computer for name in spec.providers):
        return
    if not _is_complete(family, spec.secrets):
        hint = ""
        if family == "gs":
            hint = (
                ', whose value is {"token": KEY} with the JSON of a service account\'s key: the file that'
                " GOOGLE_APPLICATION_CREDENTIALS names is on this computer"
            )
        raise SpecError(
            f"checkpoints={spec.checkpoints!r}: the machine has no credentials for it; name the variables that hold them,"
            f" secrets={_EXAMPLES[family]}{hint}"
        )


def _is_complete(family: str, secrets: Iterable[str]) -> bool:
    named = set(secrets)
    kinds = [family, *(name for name, of in _FAMILIES.items() if of == family)]
    own = tuple(f"FSSPEC_{kind.upper()}" for kind in kinds)
    if any(name in own or name.startswith(tuple(f"{o}_" for o in own)) for name in named):
        return True
    return any(named >= set(needed) for needed in _CREDENTIALS[family])


def with_backend(recipe: Recipe, url: str) -> Recipe:
    """The recipe with what the machine needs to reach the bucket; what it lists already is not added."""
    return with_needed(recipe, BACKENDS[bucket_url.scheme_of(url)], "its checkpoints")


def restore(
    attendance: Attendance,
    session: Session,
    url: str,
    *,
    python: str,
    secrets: Mapping[str, str],
) -> None:
    """Has the machine bring what earlier attempts, or earlier runs of the same folder, have left there; says what came.

    Raises:
        DataFailed: the bucket cannot be read or written from there; nothing of the function has run.
    """
    attendance.step("data", url)

    def progress(have: int, total: int) -> None:
        attendance.display.detail(f"{human_bytes(have)} of {human_bytes(total)} from {url}")

    came = session.restore_checkpoints(
        url,
        python,
        secrets=secrets,
        variables={},
        claim=not session.machine.node,
        progress=progress,
    )
    if session.machine.node:
        return
    attendance.record("checkpoints_restored", files=came.files, bytes=came.size, left_by=came.run)
    if came.run:
        files = "1 file" if came.files == 1 else f"{came.files:,} files"
        attendance.display.note(
            f"checkpoints: {files}, {human_bytes(came.size)}, from {url}, left by run {printable(came.run)[:12]}"
        )
