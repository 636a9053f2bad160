"""What a person should know and no program needs."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape


def warn(message: str) -> None:
    """One line to standard error."""
    Console(stderr=True).print(f"[yellow]note[/yellow] {escape(message)}", highlight=False)
