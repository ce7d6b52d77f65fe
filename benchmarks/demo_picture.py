"""The demo as a person sees it, when it has answered and the frames were shuffled:

    python benchmarks/demo_picture.py --output docs/pictures/demo.png

asks the tiny model, or `--model`, about the first video that is offered, in the browser of the tests (chromium).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from taro.view.demo import DemoSettings, start_grounder
from taro.view.demo_app import served

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from view.chromium import Chromium

ANSWERED = "!!document.querySelector('#shown .taro-timeline')"
SHUFFLED = "!!document.querySelector('#shown .taro-text span[title*=nats]')"
SECONDS = 5.0  # of the video that are shown
PICKED = "document.querySelector('video')?.readyState >= 2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder or hub name; the tiny one of assets/ unless given")
    parser.add_argument("--annotations", help="samples file whose first video is asked about; a synthetic one unless given")
    parser.add_argument("--width", type=int, default=1000, help="of the window, pixels")
    parser.add_argument("--output", type=Path, default=Path("demo.png"))
    args = parser.parse_args()
    settings = DemoSettings(model=args.model, annotations=args.annotations)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, served(start_grounder(settings), settings) as address:
        browser = Chromium(Path(folder))
        try:
            page = browser.open(address, args.width, 100)
            page.wait("!!document.querySelector('#offer input')")
            page.run("document.querySelector('#offer input').focus()")
            page.wait("!!document.querySelector('[role=option]')")
            page.run("document.querySelector('[role=option]').dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))")
            page.wait(PICKED)
            page.click("#ask")
            page.wait(ANSWERED)
            page.click("#shuffle")
            page.wait(SHUFFLED)
            page.run(f"document.querySelector('video').currentTime = {SECONDS}; document.activeElement.blur()")
            page.wait("!!document.querySelector('#shown .cursor') && !document.querySelector('video').seeking")
            page.resize(args.width, page.run("document.querySelector('.gradio-container').scrollHeight"))
            page.picture(args.output)
        finally:
            browser.close()
    print(args.output)


if __name__ == "__main__":
    main()
