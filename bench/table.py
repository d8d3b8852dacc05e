"""How the benches show their figures."""

from typing import Any


def show(figures: list[dict[str, Any]]) -> None:
    """A row each, under the names of the first one's keys."""
    print()
    print("".join(f"{name:>17}" for name in figures[0]))
    for row in figures:
        print("".join(f"{value:>17,}" if isinstance(value, int) else f"{value:>17}" for value in row.values()))
    print(flush=True)
