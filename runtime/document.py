"""Document: the frame of an HTML file that needs nothing else, and text that is nothing but text in it."""

from __future__ import annotations

from html import escape

from dayfly.runtime.redact import redact

WIDTH = 800
END = "</body>\n</html>\n"
_COLOURS = 8

# Nothing is loaded and no script runs, also where something that should be text were taken for more.
_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1d2433; --dim: #5b6577; --paper: #fff; --line: #d5dae3; --c0: #2563c9; --c1: #b4540a; --c2: #14804a;
  --c3: #8a3ab9; --c4: #b3261e; --c5: #0f7b8a; --c6: #8a6d00; --c7: #c2317f; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e9f0; --dim: #9aa4b5; --paper: #14171f; --line: #363d4b;
  --c0: #7aa7ff; --c1: #f5a05a; --c2: #5fd08f; --c3: #cf9bf0; --c4: #ff8a80; --c5: #5cc8d8; --c6: #e0c04a; --c7: #ff8fc4; }} }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 860px; margin: 2em auto;
  padding: 0 1em; }}
h1 {{ font-size: 1.2em; overflow-wrap: anywhere; }} h2 {{ font-size: 1em; margin: 1.6em 0 .4em; }}
svg {{ display: block; width: 100%; height: auto; }} svg text {{ font-size: 11px; fill: var(--dim); }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1em 1.2em; margin: 0; }}
dt {{ color: var(--dim); }} dd {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }}
.grid {{ stroke: var(--line); fill: none; }} .curve {{ fill: none; stroke-width: 1.5; stroke-linejoin: round; }}
{colours}
</style>
</head>
<body>
"""


def head(title: str) -> str:
    """All of it up to the first heading."""
    colours = "\n".join(
        f".c{n} {{ stroke: var(--c{n}); }} .f{n} {{ fill: var(--c{n}); color: var(--c{n}); }}"
        for n in range(_COLOURS)
    )
    return _HEAD.format(title=escaped(title), colours=colours) + f"<h1>{escaped(title)}</h1>\n"


def escaped(words: str) -> str:
    """Words of whatever origin, as text and without what looks like a secret."""
    return escape(redact(words))
