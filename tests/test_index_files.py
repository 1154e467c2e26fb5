"""Private indexes by the files of uv and pip and the passwords of netrc and keyring: to the machine, and into no word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dayfly.errors import SpecError
from dayfly.runtime import index, redact, wheels
from dayfly.runtime.environment import recipe


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with nothing in it, and none of this process's own settings."""
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_", "SSL_")) or name in ("NETRC", "XDG_CONFIG_DIRS"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "system"))
    monkeypatch.setattr(redact, "_known", set())
    (tmp_path / "project").mkdir()
    return tmp_path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def settings(home: Path, same_computer: bool = False) -> dict[str, str]:
    found = index.variables(os.environ, same_computer=same_computer, root=home / "project")
    # What this computer has for everybody.
    return {name: value for name, value in found.items() if not name.startswith("SSL_")}


def test_uvs_files_count_the_projects_before_the_users(home: Path) -> None:
    """A default index, others, and one that only some packages come from, which is not for all; `[pip]` wins."""
    written(
        home / "project" / "pyproject.toml",
        '[tool.uv]\nindex-strategy = "first-index"\npip = { index-strategy = "unsafe-first-match" }\n'
        '[[tool.uv.index]]\nname = "mine"\nurl = "https://mine.example/simple"\n'
        '[[tool.uv.index]]\nname = "only"\nurl = "https://only.example/simple"\nexplicit = true\n',
    )
    written(
        home / ".config" / "uv" / "uv.toml",
        'index-strategy = "unsafe-best-match"\nextra-index-url = ["https://a.example", "https://b.example"]\n'
        'find-links = ["https://links.example"]\npython-downloads = "never"\noffline = true\n'
        '[[index]]\nurl = "https://default.example/simple"\ndefault = true\n',
    )
    assert settings(home) == {
        "UV_INDEX_STRATEGY": "unsafe-first-match",
        "UV_INDEX": "mine=https://mine.example/simple",
        "UV_DEFAULT_INDEX": "https://default.example/simple",
        "UV_EXTRA_INDEX_URL": "https://a.example https://b.example",
        "UV_FIND_LINKS": "https://links.example",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_OFFLINE": "true",
    }


def test_a_variable_wins_over_a_file_and_uv_over_pip(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In uv's and in pip's own order; what names a file of this computer stays here."""
    written(
        home / "system" / "pip" / "pip.conf",
        "[global]\nindex-url = https://system.example\ntrusted-host = t.example\n",
    )
    written(
        home / ".config" / "pip" / "pip.conf",
        "[global]\nindex-url = https://user.example\nextra_index_url =\n  https://x.example\n  https://y.example\n"
        f"find-links = {home}\n",
    )
    mine = {
        "UV_DEFAULT_INDEX": "https://user.example",
        "UV_EXTRA_INDEX_URL": "https://x.example https://y.example",
        "UV_INSECURE_HOST": "t.example",
    }
    assert settings(home) == mine
    assert settings(home, same_computer=True) == {**mine, "UV_FIND_LINKS": str(home)}
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example")
    assert settings(home)["UV_DEFAULT_INDEX"] == "https://variable.example"
    named = written(home / "named.toml", 'index-url = "https://uv.example"\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(named))
    assert settings(home)["UV_DEFAULT_INDEX"] == "https://uv.example"
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_INDEX_URL")
    assert settings(home) == {}


def test_what_of_the_settings_stays_here_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of wheels always; certificates where there is something that may need them."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # This computer may have one for everybody.
    monkeypatch.setenv("PIP_FIND_LINKS", f"https://links.example {home}")
    root = home / "project"
    (said,) = recipe(["x"], root).warnings
    assert f"find-links names '{home}' on this computer" in said
    assert recipe(["x"], root, same_computer=True).warnings == ()
    assert recipe([], root).warnings == ()
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CERT", __file__)
    assert recipe(["x"], root).warnings == ()
    written(root / "requirements.txt", "--index-url https://own.example/simple\nx\n")
    (said,) = recipe("requirements.txt", root).warnings
    assert f"SSL_CERT_FILE names '{__file__}' on this computer" in said
    written(home / ".config" / "uv" / "uv.toml", 'index-url = "https://own.example/simple"\n')
    assert recipe(["x"], root).warnings == (said,)


def test_passwords_of_netrc_go_with_the_addresses(home: Path) -> None:
    """In the settings and, by variables, in the requirements: their text and their digest have none."""
    written(home / ".netrc", "machine private.example login me password p@ss/word1\n")
    written(
        home / ".config" / "uv" / "uv.toml",
        'index-url = "https://private.example/simple"\nextra-index-url = ["https://open.example"]\n',
    )
    wanted = written(
        home / "project" / "requirements.txt",
        "--extra-index-url https://private.example/more\n"
        "thing @ https://private.example/thing.whl#sha256=00\nother @ https://own:known-one@private.example/o.whl\n",
    )
    made = recipe(None, home / "project")
    assert made.variables["UV_DEFAULT_INDEX"] == "https://me:p%40ss%2Fword1@private.example/simple"
    assert made.variables["UV_EXTRA_INDEX_URL"] == "https://open.example"
    assert made.variables["DAYFLY_INDEX_0_PASSWORD"] == "p%40ss%2Fword1"
    assert "${DAYFLY_INDEX_0_USER}:${DAYFLY_INDEX_0_PASSWORD}@private.example/" in made.requirements
    assert made.requirements.count("@private.example") == 3
    before = made.digest
    written(home / ".netrc", "machine private.example login me password another-one\n")
    assert recipe(None, home / "project").digest == before
    # Nothing that this process says from now on has them.
    for secret in ("p@ss/word1", "p%40ss%2Fword1", "another-one", "known-one"):
        assert secret not in redact.redact(f"uv said {secret} of it")
        assert secret not in repr(made)
    assert "private.example" in wanted.read_text()


def test_the_password_of_a_named_index_is_in_uvs_variables(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where requirements name the address itself, it goes with that: there the machine's uv does not know the name."""
    written(
        home / "project" / "uv.toml",
        '[[index]]\nname = "my-own"\nurl = "https://own.example/simple"\nexplicit = true\n',
    )
    monkeypatch.setenv("UV_INDEX_MY_OWN_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_MY_OWN_PASSWORD", "from-a-variable")
    written(
        home / "project" / "requirements.txt",
        "--extra-index-url https://own.example/simple/\n--find-links https://own.example/simpler\nx\n",
    )
    made = recipe(None, home / "project")
    first, second, _ = made.requirements.splitlines()
    assert first.endswith("${DAYFLY_INDEX_0_USER}:${DAYFLY_INDEX_0_PASSWORD}@own.example/simple/")
    assert second == "--find-links https://own.example/simpler"
    assert made.variables["DAYFLY_INDEX_0_PASSWORD"] == "from-a-variable"
    assert "from-a-variable" not in redact.redact("it said from-a-variable")


def test_a_user_without_a_password_is_asked_of_the_keyring(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where uv or pip would ask it, and only there."""
    program = written(
        home / "bin" / "keyring",
        '#!/bin/sh\n[ "$2 $3" = "https://cloud.example/simple token" ] && echo from-the-keyring\n',
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://token@cloud.example/simple")
    assert settings(home)["UV_DEFAULT_INDEX"] == "https://token@cloud.example/simple"
    monkeypatch.setenv("UV_KEYRING_PROVIDER", "subprocess")
    expected = "https://token:from-the-keyring@cloud.example/simple"
    assert settings(home)["UV_DEFAULT_INDEX"] == expected
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://other@cloud.example/simple")
    assert settings(home)["UV_DEFAULT_INDEX"] == "https://other@cloud.example/simple"


def test_a_token_in_the_place_of_a_user_is_a_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is not, and stays readable."""
    token = "t0ken-" * 5
    monkeypatch.setenv("UV_INDEX", f"https://{token}@a.example https://deploy@b.example")
    recipe([], home / "project")
    assert redact.redact(f"{token} of deploy") == f"{redact.MASK} of deploy"


@pytest.mark.parametrize(
    ("place", "text", "words"),
    [
        (".config/uv/uv.toml", "index-url = \n", "cannot be read"),
        (".config/pip/pip.conf", "index-url = x\n", "pip's settings cannot be read"),
        (".netrc", "machine x login y passwort s3cret-word\n", "netrc cannot be read"),
    ],
)
def test_a_broken_file_is_named_without_its_passwords(
    home: Path, place: str, text: str, words: str
) -> None:
    """Silently going on would install from somewhere else."""
    written(home / place, text)
    with pytest.raises(SpecError, match=words) as refused:
        recipe(["numpy"], home / "project")
    assert "s3cret" not in str(refused.value)


def test_what_uv_says_here_has_no_password(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words are part of the refusal, but for that."""
    uv = written(
        home / "uv", '#!/bin/sh\necho "error: http://u:pw-of-mine@x.example: 401" >&2\nexit 2\n'
    )
    uv.chmod(0o755)
    monkeypatch.setattr(wheels, "own_uv", lambda: uv)
    with pytest.raises(SpecError, match=r"it failed:\nerror: http://.*@x\.example: 401") as refused:
        wheels.run_uv(["pip", "compile"], "it failed")
    assert "pw-of-mine" not in str(refused.value)
