"""Pages in a real browser: Debian's chromium, without a driver. Each script writes what it sees into the page's title."""

import re

import pytest

from taro.view.evaluated import read_evaluation
from taro.view.html import make_page, timeline_html
from taro.view.report import make_report_page
from taro.view.rollouts import make_rollouts_page, read_run
from taro.view.timeline import Timeline, TokenGap, Track

pytestmark = pytest.mark.slow

CHOOSE = "function choose(label, value) { const node = [...document.querySelectorAll('label')].find((one) => \
one.firstChild.textContent === label).lastChild; node.value = value; node.dispatchEvent(new Event(node.tagName === 'SELECT' ? \
'change' : 'input', {bubbles: true})); }\n"


def title_of(dom):
    return re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]


def test_a_report_shows_its_samples_and_filters_them(write_evaluation, browse, markup):
    page = make_report_page([read_evaluation(write_evaluation("base")), read_evaluation(write_evaluation("trained", 0.0))])
    script = f"""{CHOOSE}
const cards = () => document.querySelectorAll('article').length;
const seen = {{first: cards()}};
choose('order', 'file'); seen.strips = document.querySelectorAll('.strip img').length;
document.querySelectorAll('details').forEach((node) => {{ node.open = true; }});
choose('order', 'worst'); choose('failure', 'missing_video'); seen.missing = cards();
choose('failure', ''); choose('query, id or answer has', 'event 12 '); seen.words = cards();
const bar = document.querySelector('.bar'); bar.focus(); bar.click();
seen.focus = document.activeElement === bar; seen.cursor = document.querySelectorAll('.cursor').length > 0;
choose('query, id or answer has', ''); document.querySelector('[data-pages]').lastChild.click(); seen.second = cards();
seen.images = [...document.images].filter((image) => !image.src.startsWith('data:')).length;
seen.wide = document.documentElement.scrollWidth > innerWidth;
if (document.title !== 'owned') document.title = JSON.stringify(seen);"""
    title = title_of(browse(page, script, width=500))
    assert title == (
        '{"first":20,"strips":3,"missing":1,"words":1,"focus":true,"cursor":true,"second":10,"images":0,"wide":false}'
    )


def test_rollouts_of_one_prompt_show_what_changed(run_folder, browse):
    page = make_rollouts_page(read_run(run_folder))
    script = f"""{CHOOSE}
const seen = {{first: document.querySelectorAll('article').length}};
choose('prompt', '0'); seen.prompt = document.querySelectorAll('article').length;
seen.changed = [...document.querySelectorAll('ins')].map((node) => node.textContent).filter((text) => text.startsWith('word'));
document.querySelectorAll('article summary').forEach((node) => node.click());
setTimeout(() => {{
  seen.rows = document.querySelectorAll('article tbody tr').length; seen.times = document.querySelectorAll('.time').length;
  seen.images = [...document.images].length; seen.total = document.body.textContent.includes('reward ' + '1.60');
  if (document.title !== 'owned') document.title = JSON.stringify(seen);
}}, 500);"""
    title = title_of(browse(page, script))
    assert title == '{"first":6,"prompt":3,"changed":["word2","word3"],"rows":6,"times":12,"images":0,"total":true}'


def test_a_timeline_draws_itself_wherever_html_is_shown(browse, markup):
    text = f"<think>😀 From 2.0s to 4.0s, {markup}"
    start = text.index("2.0")
    gaps = (TokenGap(1.0, start, start + 1), TokenGap(-0.5, start + 1, start + 3))
    tracks = (Track(markup, (2.0, 9.0), 0.5, markup, text, gaps), Track("#2", (8.0, 60.0), 0.0))
    timeline = Timeline(10.0, ((2.0, 4.0),), tracks)
    part = timeline_html(timeline)
    script = """const times = [...document.querySelectorAll('.time')];
times[1].click();
const bars = [...document.querySelectorAll('.bar')].map((node) => node.getBoundingClientRect());
const lane = document.querySelector('.lane').getBoundingClientRect();
const share = (x) => Math.round(100 * (x - lane.left) / lane.width);
const at = document.querySelector('.taro-timeline').style.getPropertyValue('--at');
document.title = JSON.stringify({times: times.map((node) => node.textContent), tokens: times[0].childNodes.length,
  bars: bars.map((box) => [share(box.left), share(box.right)]), at,
  images: document.images.length});"""
    title = title_of(browse(make_page("x", part + part, {}), script))  # two of them in one page
    assert title == (
        '{"times":["2.0","4.0","2.0","4.0"],"tokens":2,"bars":[[20,40],[20,90],[80,100],[20,40],[20,90],[80,100]],'
        '"at":"40%","images":0}'
    )
