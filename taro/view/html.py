"""Pages and parts of pages: one file, no network, no framework. Everything that data says is escaped, or kept as JSON that a
script puts into text nodes."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

from taro.files import write_text
from taro.view.timeline import Timeline, ViewError, seconds_text, to_json

ASSETS = Path(__file__).parent / "assets"
# Nothing from a network.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def escape(text: object) -> str:
    """For the text of an element, or for an attribute in double quotes."""
    return html.escape(str(text))


def to_script_json(data: Any) -> str:
    """JSON in ASCII that can't end the script element that holds it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def picture_address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def timeline_html(timeline: Timeline) -> str:
    """A part of a page that shows a timeline and what was said, wherever HTML is shown: a notebook, a demo.

    Where scripts don't run, what it says stands there as a list.
    """
    style = f"<style>{asset('timeline.css')}</style>"
    return f"{style}{timeline_part(timeline)}<script>{asset('timeline.js')}\ntaro.fill();</script>"


def timeline_part(timeline: Timeline) -> str:
    """The same for a page that has `timeline.css` and `timeline.js` already, and calls `taro.fill()`."""
    strip = None if timeline.strip is None else picture_address(timeline.strip)
    data = json.dumps({"timeline": to_json(timeline), "strip": strip}, separators=(",", ":"), allow_nan=False)
    return f'<div class="taro"><div data-taro-timeline="{escape(data)}">{_as_list(timeline)}</div></div>'


def make_page(title: str, body: str, data: Any, *scripts: str) -> str:
    """A whole page.

    Args:
        title: as text.
        body: as HTML.
        data: what the scripts read, of JSON's types.
        scripts: names of assets that run when the body is there.
    """
    styles = "".join(asset(f"{name}.css") for name in ("timeline", "page"))
    code = "".join(f"<script>\n{asset(f'{name}.js')}</script>\n" for name in ("timeline", *scripts))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>
{styles}</style>
</head>
<body class="taro">
<main>
{body}
</main>
<script type="application/json" id="data">{to_script_json(data)}</script>
{code}</body>
</html>
"""


def write_page(path: Path, page: str) -> None:
    """
    Raises:
        ViewError: it can't be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page.encode(errors="replace").decode())  # data may have half a surrogate pair
    except OSError as error:
        raise ViewError(f"--output {path}: can't be written ({error.strerror})") from None


def _as_list(timeline: Timeline) -> str:
    lines = [f"truth: {', '.join(map(seconds_text, timeline.truths))}"] if timeline.truths else []
    for track in timeline.tracks:
        answer = "no answer" if track.span is None else seconds_text(track.span)
        lines.append(f"{track.label}: {answer}{f', {track.note}' if track.note else ''}")
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
