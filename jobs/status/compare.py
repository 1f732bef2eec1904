"""Runs beside each other, in a terminal."""

from rich.table import Table
from rich.text import Text

from sllm.report.compare import Comparison
from sllm.report.words import english


def comparison_table(compared: Comparison) -> Table:
    """The results first, then the settings that differ."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", overflow="fold")
    for name in compared.names:
        table.add_column(Text(name), overflow="fold", justify="right")
    for row in compared.results:
        table.add_row(Text(f"{english(row.word)} {row.of}".rstrip(), style="bold"), *map(Text, row.values))
    if compared.settings:
        table.add_section()
    for row in compared.settings:
        table.add_row(Text(row.word), *map(Text, row.values))
    return table
