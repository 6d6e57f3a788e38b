"""The options by which a verb is told what time it is about: a period with its offset, or from one date to another."""

from __future__ import annotations

import click

periods = click.Choice(["day", "week", "month"])
offset_option = click.option("--offset", default=0, show_default=True, help="-1 is the window before this one.")
from_option = click.option(
    "--from", "from_", metavar="DATE", help="Instead of a period: the first day, or a time with its zone."
)
to_option = click.option("--to", metavar="DATE", help="The last day, which is included, or a time. Default: today.")
