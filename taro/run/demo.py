"""What `demo.py` and `taro-demo` do: a model that is asked about videos, in a browser or for one page."""

from __future__ import annotations

from collections.abc import Sequence

from taro.command_line import parse_settings
from taro.errors import clean_exit
from taro.run.commands import DEMO
from taro.view.demo import DemoSettings, check, start_grounder, write_answer
from taro.view.demo_app import serve


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments)
    check(settings)
    grounder = start_grounder(settings)
    if settings.output is None:
        serve(grounder, settings)
        return
    answer, missing = write_answer(grounder, settings)
    said = [missing] if missing else []
    print(answer.text, *said, f"the answer and its timeline are in {settings.output}", sep="\n")


def parse(arguments: Sequence[str] | None = None) -> DemoSettings:
    return parse_settings(DemoSettings, DEMO, arguments, switches=["share", "shuffle"])


def command() -> None:
    """`demo.py`, with errors in one line."""
    with clean_exit(interrupted="the demo has ended, and its files are deleted"):
        main()


if __name__ == "__main__":
    command()
