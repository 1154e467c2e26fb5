"""The command line: `dayfly VERB`, each verb one to one with a Python call. Nothing but click is loaded until a verb runs."""

from __future__ import annotations

from dayfly.runtime.cli.app import main

__all__ = ["main"]
