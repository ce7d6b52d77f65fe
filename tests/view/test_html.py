import itertools
import json
import re

import pytest

from taro.view.html import asset, escape, make_page, timeline_html, to_script_json, write_page
from taro.view.timeline import Timeline, Track, ViewError


def test_json_in_a_script_can_not_end_it(markup):
    text = to_script_json({"a": markup, "b": "<!--"})
    assert "<" not in text and text.isascii() and json.loads(text) == {"a": markup, "b": "<!--"}


def test_a_page_is_one_file_that_asks_no_one(markup):
    page = make_page(markup, "<p>x</p>", {"x": markup}, "report", "rollouts")
    assert markup not in page and not re.search(r"""(src|href|url|import|fetch)\s*[=(]\s*["']?(https?:|//)""", page)
    assert "default-src 'none'" in page and page.count("</script>") == 4


def test_a_timeline_stands_there_as_a_list_where_scripts_do_not_run(markup):
    track = Track(markup, (1.0, 2.0), 0.5, markup, markup)
    part = timeline_html(Timeline(10.0, ((1.0, 3.0),), (track, Track("other", None, 0.0))))
    assert markup not in part and f"<li>{escape(markup)}: 1.0 to 2.0 s, {escape(markup)}</li>" in part
    assert "<li>other: no answer</li>" in part


def test_a_page_that_can_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ViewError, match=r"--output .*page.html: can't be written"):
        write_page(tmp_path / "file" / "page.html", "")


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    write_page(tmp_path / "page.html", "a\ud800b")
    assert (tmp_path / "page.html").read_text() == "a?b"


# ---- Contrast (WCAG 2: relative luminance) ----


def luminance(colour):
    shares = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(*colours):
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


def schemes():
    """Colours of light and dark."""
    parts = asset("timeline.css").split("prefers-color-scheme: dark")
    return [dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in parts]


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_text_and_marks_stand_out(scheme):
    for ground, text in itertools.product(("ground", "raised"), ("text", "faint", "accent")):
        assert contrast(scheme[ground], scheme[text]) >= 4.5, (ground, text)
    for ground, mark in itertools.product(("ground", "raised"), ("line", "truth", "low", "mid", "high", "first", "second")):
        assert contrast(scheme[ground], scheme[mark]) >= 3, (ground, mark)


@pytest.mark.parametrize("scheme", range(2), ids=["light", "dark"])
def test_text_stands_out_from_the_strongest_token(scheme):
    colours = schemes()[scheme]
    tints = re.findall(r"--(?:more|less): ([\d, ]+);", asset("timeline.css"))[2 * scheme : 2 * scheme + 2]
    assert len(tints) == 2
    for tint in tints:
        ground = [int(colours["ground"][k : k + 2], 16) for k in (1, 3, 5)]
        mixed = [round(0.6 * back + 0.4 * float(part)) for back, part in zip(ground, tint.split(","), strict=True)]
        behind = "#" + "".join(f"{part:02x}" for part in mixed)
        assert contrast(behind, colours["text"]) >= 4.5
