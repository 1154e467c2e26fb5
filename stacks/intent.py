"""Step 2 of a run: its directory, its keys and the written intent, before anything exists elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dayfly.errors import RunBusy
from dayfly.infra import cost, providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import allowance, journal
from dayfly.stacks.journal import History
from dayfly.stacks.workspace import Workspace, explained


def write(
    workspace: Workspace,
    run_id: str,
    spec: Spec,
    offer: Offer,
    *,
    host: History | None = None,
    **details: Any,
) -> Run:
    """Makes the run's directory and keys, and journals what is about to be asked for.

    Args:
        workspace: where runs are kept.
        run_id: 32 hexadecimal digits, never used before.
        spec: what is asked for.
        offer: the rung that is about to be taken.
        host: the run whose kept machine it is to be on; None where it gets one of its own.
        details: what else the journal should know.

    Raises:
        ConfigurationError: the disk is full.
        RunBusy: the id is in use.
        BudgetExceeded: it might cost more than is left of a budget.
        DayflyError: the provider cannot tell which account the credentials are of.
    """
    workspace.keep_reserve()
    directory = workspace.directory(run_id)
    if directory.exists():
        raise _in_use(run_id)
    # Before anything is made: who cannot be asked whose credentials these are could not be asked to end it.
    place = _place(offer, host)
    worst_case_usd = 0.0 if host is not None else cost.worst_case_usd(spec, offer)
    with (
        explained(workspace.home),
        allowance.reserved(workspace.home, workspace.budgets, worst_case_usd),
    ):
        # Made aside and renamed: whoever looks at a run's directory finds its intent in it.
        aside = Path(tempfile.mkdtemp(dir=workspace.home / "making", prefix=f"{run_id}-"))
        with _removed_on_failure(aside):
            run = _written(aside, workspace, run_id, spec, offer, host=host, place=place, **details)
            _publish(aside, directory)
    return run


def _place(offer: Offer, host: History | None) -> str:
    """The account that a run is in: the one of its machine, where that is there already."""
    if host is not None:
        return str(host.intent.get("place") or "")
    return providers.load(offer.provider).place()


def _publish(aside: Path, directory: Path) -> None:
    try:
        aside.rename(directory)
    except OSError as error:
        # Of two clients at once one is first, and its directory, which is not empty, stays as it is.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise _in_use(directory.name) from None


def _in_use(run_id: str) -> RunBusy:
    return RunBusy(
        f"run {run_id} exists already, and an id is used once: call the function again, which takes a new one;"
        f" `dayfly show {run_id[:12]}` tells whose it is"
    )


def _written(
    aside: Path,
    workspace: Workspace,
    run_id: str,
    spec: Spec,
    offer: Offer,
    *,
    host: History | None,
    **details: Any,
) -> Run:
    created = time.time()
    public_key, host_key = _keys(aside, host)
    for node in range(1, spec.nodes):
        file = aside / f"host_key-{node}"
        file.with_suffix(".pub").write_text(make_key(file))
    _write_private(aside / "hmac_key", os.urandom(32))
    allowed_s = cost.allowed_runtime_s(spec, offer)
    worst_case_usd = cost.worst_case_usd(spec, offer)
    if host is not None:
        # Its machine ends with its own deadline, whatever is on it.
        allowed_s = max(0.0, min(allowed_s, host.deadline - created))
        details["machine_of"] = host.id
        worst_case_usd = offer.usd_per_hour * spec.nodes * allowed_s / 3600
    deadline, directory = created + allowed_s, workspace.directory(run_id)
    run = Run(run_id, workspace.owner, created, deadline, directory, public_key, host_key)
    journal.append(
        aside,
        "intent",
        provider=offer.provider,
        owner=run.owner,
        created=created,
        deadline=deadline,
        public_key=public_key,
        host_key=host_key,
        spec=spec.as_dict(),
        offer=offer.as_dict(),
        same_computer=providers.load(offer.provider).same_computer,
        worst_case_usd=worst_case_usd,
        backend=workspace.backend,
        secrets_provider=workspace.secrets_provider,
        credentials=_only_here(offer.provider),
        **({"home": workspace.identity} if workspace.is_remote else {}),
        **details,
    )
    return run


def _keys(aside: Path, host: History | None) -> tuple[str, str]:
    """Makes the keys of a machine, or takes over those of one that is there.

    Returns:
        The public halves: the user's, the host's.
    """
    if host is None:
        return make_key(aside / "user_key"), make_key(aside / "host_key")
    _write_private(aside / "user_key", (host.directory / "user_key").read_bytes())
    return str(host.intent["public_key"]), str(host.intent["host_key"])


def _only_here(provider: str) -> list[str]:
    """Names of the variables of this process that hold a credential of the provider."""
    return [name for name in providers.load(provider).credentials if os.environ.get(name)]


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def make_key(file: Path) -> str:
    """Makes an ed25519 key; the private half goes into `file` (0600), the public half is returned as OpenSSH writes it."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    _write_private(file, private)
    return key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()


def _write_private(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as output:
        output.write(content)
