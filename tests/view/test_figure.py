import pytest

from taro.view.figure import HIGH, LOW, MOST_ROWS, colour_of, draw_timeline
from taro.view.timeline import Timeline, TokenGap, Track

pytest.importorskip("matplotlib")

TEXT = "<think>\nFrom 2.0s to 4.0s, $rain$ " + "a long word " * 20 + "</think>"


def test_bars_times_and_tokens_are_where_they_belong(tmp_path):
    gaps = (TokenGap(2.0, 13, 16), TokenGap(-1.0, 21, 24))
    tracks = (Track("#1", (2.0, 4.0), 1.0, "reward $1", TEXT, gaps), Track("#2", (9.0, 8.0), 0.0), Track("#3", None, 0.0))
    figure = draw_timeline(Timeline(10.0, ((1.0, 5.0),), tracks), "when $ it rains")
    lanes, text = figure.axes
    bars = [(bar.get_x(), bar.get_width()) for bar in lanes.patches if bar.get_height() < 0.6]
    assert bars == [(1.0, 4.0), (2.0, 2.0), (8.0, 1.0)]
    assert [list(line.get_xdata()) for line in lanes.lines] == [[2.0, 4.0], [], []]
    tokens = [(patch.get_x(), patch.get_y(), patch.get_alpha()) for patch in text.patches]
    assert tokens == [(5, 1.5, 0.4), (13, 1.5, 0.2)]  # in the second line of the text
    figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("tracks", [(), (Track("answer", (2.0, 4.0), 1.0),)])
def test_without_a_truth_there_is_no_lane_for_it(tracks):
    (lanes,) = draw_timeline(Timeline(10.0, (), tracks)).axes
    assert [label.get_text() for label in lanes.get_yticklabels()] == [track.label for track in tracks]


def test_a_strip_stands_above(video_file):
    from taro.view.frames import load_strip

    figure = draw_timeline(Timeline(10.0, ((1.0, 5.0),), (), load_strip(str(video_file))), texts=0)
    assert len(figure.axes) == 2 and figure.axes[0].images


@pytest.mark.parametrize("text", ["\n" * 2048, "\t" * 2048, "a" * 20_000])
def test_a_long_text_is_cut(text):
    figure = draw_timeline(Timeline(10.0, (), (Track("#1", None, 0.0, text=text),)))
    drawn = [one.get_text() for one in figure.axes[1].texts]
    assert figure.get_figheight() < 12 and len(drawn) <= MOST_ROWS + 2 and drawn[-1] == "... (the rest is not drawn)"
    whole = draw_timeline(Timeline(10.0, (), (Track("#1", None, 0.0, text="\n" * (MOST_ROWS - 1) + "end"),)))
    assert whole.axes[1].texts[-1].get_text() == "end"


def test_colours_end_where_they_should():
    def as_hex(rgb):
        return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)

    assert as_hex(colour_of(-1)) == as_hex(colour_of(0)) == LOW and as_hex(colour_of(7)) == HIGH
