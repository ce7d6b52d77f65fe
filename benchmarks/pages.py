"""Pages of docs/ of which one part is printed by a command, and the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

from taro.files import write_text

START, END = "<!-- table -->", "<!-- end of table -->"


def write_table(page: Path, title: str, text: str) -> None:
    """Put `text` between START and END in a page, whose other text stays; a page that is not there is made, with a title.

    Where a page has no END, all after START is taken for a table.
    """
    old = page.read_text() if page.exists() else f"# {title}\n\n"
    head, _, rest = old.partition(START)
    _, end, tail = rest.partition(END)
    write_text(page, f"{head.rstrip()}\n\n{START}\n\n{text}\n" + (f"\n{END}{tail}" if end else ""))
