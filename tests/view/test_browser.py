"""Pages in a real browser, at the width of a desk and of a phone: what is chosen is shown, the keyboard does what the mouse
does, axe-core finds nothing wrong, and nothing that data says is run."""

from dataclasses import replace

import pytest

from taro.view.evaluated import read_evaluation
from taro.view.html import make_page, timeline_html
from taro.view.report import make_report_page
from taro.view.rollouts import make_rollouts_page, read_run
from taro.view.timeline import Timeline, TokenGap, Track

pytestmark = pytest.mark.slow
widths = pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])

SHOWN = "[...document.querySelectorAll('article header .faint')].map((node) => node.textContent.split(',')[0])"
OPEN = "document.querySelectorAll('details').forEach((one) => { one.open = true; }); !!document.querySelector('details')"
# Where the focus is: its label or text, as a screen reader would say it.
FOCUS = "(document.activeElement.labels?.[0]?.firstChild ?? document.activeElement).textContent.trim()"


def choose(page, label, value):
    """In the list, or in the box, with this label; the samples or groups that are shown then."""
    page.run(f"""(() => {{
      const node = [...document.querySelectorAll('label')].find((one) => one.firstChild.textContent === '{label}').lastChild;
      node.value = '{value}';
      node.dispatchEvent(new Event(node.tagName === 'SELECT' ? 'change' : 'input', {{bubbles: true}}));
    }})()""")
    return page.run(SHOWN)


def assert_sound(page):
    """With all open that can be: nothing is wider than the window or comes from outside."""
    assert page.run(OPEN)
    page.wait("[...document.querySelectorAll('article details')].every((one) => one.children.length > 1)")
    assert not page.run("document.documentElement.scrollWidth > innerWidth")
    assert page.run("[...document.images].every((one) => one.src.startsWith('data:'))")
    assert page.run("document.title") != "owned"


def assert_accessible(page):
    """With all open that can be: axe-core, which takes its time for each of a page's elements, has no objection."""
    assert_sound(page)
    assert page.violations() == {} == page.violations("dark")


@widths
def test_a_report_shows_its_samples_and_filters_them(samples, write_evaluation, open_page, width):
    samples[12] = replace(samples[12], task="multi_span")
    runs = [write_evaluation("base", again=True), write_evaluation("trained", 0.05)]
    page = open_page(make_report_page([read_evaluation(run) for run in runs])[0], width)
    shown = page.run(SHOWN)
    assert len(shown) == 20 and shown[:2] == ["s27", "s26"]  # the answers of the first run are farther off each time
    assert choose(page, "order", "worst")[0] == "s27" and choose(page, "order", "best")[1] == "s1"
    assert choose(page, "order", "file")[-1] == "s19"
    assert page.run("document.querySelectorAll('.strip img').length") == 3
    assert set(choose(page, "failure", "missing_video")) == {"s29"}
    assert page.run("document.querySelector('[value=missing_video]').textContent") == "missing_video (1 samples, in either run)"
    assert "s29" not in choose(page, "failure", "answered")
    assert choose(page, "failure", "") and choose(page, "task", "multi_span") == ["s12"]
    assert len(choose(page, "task", "")) == 20 and choose(page, "query, id or answer has", "event 14 ") == ["s14"]
    assert choose(page, "query, id or answer has", "no such words") == []
    assert page.run("document.querySelector('#count').textContent") == "no sample is like that"
    choose(page, "query, id or answer has", "")
    page.run("document.querySelector('[data-pages]').lastChild.click()")
    assert page.run(SHOWN) == [f"s{k}" for k in range(20, 30)]
    assert page.run("document.querySelector('[data-pages]').textContent") == "← previouspage 2 of 2next →"
    choose(page, "order", "file")
    assert_sound(page)
    assert choose(page, "query, id or answer has", "event 2") == ["s2", *(f"s{k}" for k in range(20, 30))]
    assert page.run("document.querySelectorAll('.strip img').length") == 1
    assert_accessible(page)


def test_a_keyboard_reaches_all_of_a_report(write_evaluation, open_page):
    page = open_page(make_report_page([read_evaluation(write_evaluation())])[0])
    page.run("document.querySelector('#controls select').focus()")
    said = []
    for _ in range(5):
        said.append(page.run(FOCUS))
        page.press("Tab")
    assert said == ["order", "failure", "query, id or answer has", "next →", ""]  # and then the bars of the first sample
    bar = page.run("document.activeElement.getAttribute('aria-label')")
    assert bar.startswith("answer, ")
    page.press("Enter")
    assert page.run("document.querySelectorAll('article:first-child .cursor').length") >= 2
    assert page.run("document.activeElement.getAttribute('aria-label')") == bar  # it stays where it is
    page.press("Tab")
    assert page.run(FOCUS) == "what the model says" and "3px" in page.run("getComputedStyle(document.activeElement).outline")
    page.press("Enter")
    page.wait("!!document.querySelector('article:first-child .taro-text')")
    page.press("Tab")
    assert page.run("document.activeElement.className") == "time"


@widths
def test_rollouts_of_one_prompt_show_what_changed(run_folder, open_page, width):
    page = open_page(make_rollouts_page(read_run(run_folder)), width)
    assert len(page.run(SHOWN)) == 6
    assert choose(page, "order", "low")[0] == "step 1" and len(choose(page, "order", "same")) == 3
    assert choose(page, "order", "reward")[0] == "step 3" and choose(page, "step", "2") == ["step 2"] * 2
    choose(page, "step", "")
    choose(page, "order", "step")
    assert len(choose(page, "prompt", "0")) == 3
    changed = page.run("[...document.querySelectorAll('ins')].map((node) => node.textContent)")
    assert [word for word in changed if word.startswith("word")] == ["word2", "word3"]
    assert_accessible(page)
    assert page.run("document.querySelectorAll('article tbody tr').length") == 6
    assert page.run("document.querySelectorAll('.time').length") == 12
    assert page.run("document.body.textContent.includes('reward 1.60')")
    assert page.run("document.querySelector('article').textContent.includes('by default a negative one counts 0')")


def test_a_timeline_draws_itself_wherever_html_is_shown(open_page, markup):
    text = f"<think>😀 From 2.0s to 4.0s, {markup}"
    start = text.index("2.0")
    gaps = (TokenGap(-0.004, 0, 3), TokenGap(1.0, start, start + 1), TokenGap(-0.5, start + 1, start + 3))
    tracks = (Track(markup, (2.0, 9.0), 0.5, markup, text, gaps), Track("#2", (8.0, 60.0), 0.0))
    part = timeline_html(Timeline(10.0, ((2.0, 4.0),), tracks))
    page = open_page(make_page("x", part + part, {}))  # two of them in one page
    times = "[...document.querySelectorAll('.time')]"
    assert page.run(f"{times}.map((node) => node.textContent)") == ["2.0", "4.0", "2.0", "4.0"]
    assert page.run(f"{times}[0].childNodes.length") == 2
    said = page.run("[...document.querySelectorAll('.taro-text span[title]')].map((node) => node.title)")
    measured = [f"{which} likely with shuffled frames: {nats} nats" for which, nats in (("less", "1.00"), ("more", "0.50"))]
    assert said == ["as likely with shuffled frames", *measured] * 2
    page.run(f"{times}[1].click()")
    assert page.run("document.querySelector('.taro-timeline').style.getPropertyValue('--at')") == "40%"
    bars = page.run("""(() => {
      const lane = document.querySelector('.lane').getBoundingClientRect();
      const share = (x) => Math.round(100 * (x - lane.left) / lane.width);
      return [...document.querySelectorAll('.bar')].map((node) => node.getBoundingClientRect())
        .map((box) => [share(box.left), share(box.right)]);
    })()""")
    assert bars == [[20, 40], [20, 90], [80, 100]] * 2
    assert page.run("document.images.length") == 0 and page.run("document.title") == "x"
