"""What a client hands to the keeper: what its run's provider needs, its backend, and the secrets to mask; nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from dayfly.errors import KeeperMissing
from dayfly.infra.offers import Offer
from dayfly.infra.providers.local import Local
from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from dayfly.runtime import entrust
from dayfly.stacks import intent, journal
from dayfly.stacks.journal import History
from dayfly.stacks.workspace import Workspace
from tests import runs

pytestmark = pytest.mark.process


def _run(workspace: Workspace, *, secrets: list[str]) -> History:
    run_id = new_id()
    offer = Offer("local", "loopback", "this-computer", 1, 1, 0.0)
    intent.write(workspace, run_id, Spec(secrets=secrets), offer, client=journal.myself())
    return journal.read(workspace.directory(run_id))


def test_credentials_and_secrets_are_handed_over_and_nothing_else(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the provider by name, those of the backend by its scheme."""
    monkeypatch.setattr(Local, "environment", ("TEST_API_KEY", "TEST_API_URL"))
    monkeypatch.setattr(Local, "credentials", ("TEST_API_KEY",))
    for name in ("TEST_API_KEY", "AWS_PROFILE", "TEST_SECRET", "UNRELATED"):
        monkeypatch.setenv(name, name.lower())
    history = _run(workspace, secrets=["TEST_SECRET"])
    given = {"TEST_API_KEY": "test_api_key", "TEST_SECRET": "test_secret"}
    assert entrust.belongings(workspace, history) == given
    assert history.credentials == ("TEST_API_KEY",)
    in_cloud = dataclasses.replace(workspace, backend="s3://bucket")
    more = entrust.belongings(in_cloud, history)
    assert more.items() >= {**given, "AWS_PROFILE": "aws_profile"}.items()
    assert "UNRELATED" not in more


def test_a_run_of_which_nobody_knows_where_it_was_gets_the_credentials_of_every_provider(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes it has to ask them all."""
    monkeypatch.setenv("LAMBDA_API_KEY", "a-key")
    history = _run(workspace, secrets=[])
    (history.directory / journal.FILE).write_bytes(b"")
    damaged = journal.read(history.directory)
    assert entrust.belongings(workspace, damaged)["LAMBDA_API_KEY"] == "a-key"
    assert "LAMBDA_API_KEY" not in entrust.belongings(workspace, history)


def test_a_run_whose_credentials_are_in_a_file_is_covered_by_a_timer(workspace: Workspace) -> None:
    """Nothing of its client's environment is missed then."""
    assert journal.read(workspace.directory(runs.opened(workspace))).credentials == ()


@pytest.mark.parametrize(
    ("theirs", "ours", "outdated"),
    [("0.1.0", "0.1.0", False), ("0.9.0", "0.10.0", True), ("1.0", "0.10.0", False)],
)
def test_an_older_keeper_is_outdated(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    theirs: str,
    ours: str,
    outdated: bool,
) -> None:
    """By number; a newer one is let be."""
    monkeypatch.setattr(entrust, "_version", lambda: theirs)
    with entrust.reach(workspace) as line:
        monkeypatch.setattr(entrust, "_version", lambda: ours)
        assert entrust._is_outdated(line) is outdated
        line.greeting["python"] = "/gone/python"
        assert entrust._is_outdated(line)


def test_a_keeper_that_ends_at_once_is_reported_with_its_last_words(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not waited for."""
    monkeypatch.setenv("PYTHONPATH", str(workspace.home))
    (workspace.home / "selectors.py").write_text("raise RuntimeError('a broken installation')\n")
    with pytest.raises(KeeperMissing, match="a broken installation"):
        entrust.reach(workspace)
