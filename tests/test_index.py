"""The machine installs from where this computer does."""

from __future__ import annotations

from pathlib import Path

from dayfly.runtime import index


def test_settings_of_indexes_and_proxies_pass() -> None:
    """In either case of the letters; nothing else does."""
    given = {
        "UV_INDEX_MINE_PASSWORD": "p",
        "UV_DEFAULT_INDEX": "https://example.org",
        "https_proxy": "http://proxy",
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": "/x",
        "AWS_SECRET_ACCESS_KEY": "s",
        "NO_PROXY": "",
    }
    assert sorted(index.variables(given, same_computer=False)) == [
        "UV_DEFAULT_INDEX",
        "UV_INDEX_MINE_PASSWORD",
        "UV_OFFLINE",
        "https_proxy",
    ]


def test_pips_names_are_translated_and_uvs_own_win() -> None:
    """uv has an older name of its own for the first."""
    pip = {"PIP_INDEX_URL": "https://pip", "PIP_EXTRA_INDEX_URL": "https://more"}
    made = {"UV_DEFAULT_INDEX": "https://pip", "UV_EXTRA_INDEX_URL": "https://more"}
    assert index.variables(pip, same_computer=False) == made
    for own in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        picked = index.variables({**pip, own: "https://uv"}, same_computer=False)
        assert picked == {own: "https://uv", "UV_EXTRA_INDEX_URL": "https://more"}


def test_paths_pass_only_where_they_hold(tmp_path: Path) -> None:
    """On this computer, and when they exist: uv stops at a folder that does not."""
    given = {
        "SSL_CERT_FILE": __file__,
        "SSL_CERT_DIR": str(tmp_path / "absent"),
        "PIP_FIND_LINKS": str(tmp_path),
    }
    assert index.variables(given, same_computer=False) == {}
    here = index.variables(given, same_computer=True)
    assert here == {"SSL_CERT_FILE": __file__, "UV_FIND_LINKS": str(tmp_path)}
    url = {"UV_FIND_LINKS": "https://example.org/wheels"}
    assert index.variables(url, same_computer=False) == url
    both = {"PIP_FIND_LINKS": f"https://example.org/wheels {tmp_path} https://example.org/b"}
    assert index.variables(both, same_computer=False) == {
        "UV_FIND_LINKS": "https://example.org/wheels,https://example.org/b"
    }
