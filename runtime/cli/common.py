"""What many verbs take alike: the run, the machine of it, and whether the answer is JSON."""

from __future__ import annotations

import click

with_run = click.argument("run", metavar="RUN")
with_json = click.option("--json", is_flag=True, help="Print JSON.")
with_node = click.option(
    "--node",
    metavar="N",
    type=int,
    default=0,
    show_default=True,
    help="Which machine, where there are several; the first is 0.",
)
