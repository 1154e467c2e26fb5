"""Every Python process that finds this file on its path knows the stand-in's provider, too."""

from pathlib import Path

from dayfly.infra import providers

providers.__path__.append(str(Path(__file__).parents[1] / "providers"))
