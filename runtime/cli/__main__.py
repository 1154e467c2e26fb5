"""`python -m dayfly.runtime.cli`: the command line without its script on PATH, as detached processes start it."""

from __future__ import annotations

from dayfly.runtime.cli.app import main

if __name__ == "__main__":
    main()
