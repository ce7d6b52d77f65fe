import json

import pytest

from taro.data.samples import Caption, Sample, load_samples, save_samples
from taro.prepare.caption.__main__ import main
from taro.prepare.caption.settings import CaptionError


def make_sample(id, video, clip=None, duration=20.0, **extra):
    return Sample(id, video, "he waves", ((1.0, 2.0),), duration, clip, extra=extra)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Imports into samples of `rows`; no video is there, and none is needed. Gives the report and captions by sample id."""
    monkeypatch.chdir(tmp_path)

    def run(rows, *flags, captions=None):
        save_samples(rows, "in.jsonl", relative_to=".")
        if captions is not None:
            (tmp_path / "captions.json").write_text(json.dumps(captions))
            flags = ("--captions=captions.json", *flags)
        report = main(["--input=in.jsonl", "--output=out.jsonl", *flags])
        return report, {sample.id: sample.captions for sample in load_samples("out.jsonl")}

    return run


ROWS = [make_sample("a0", "some/a.mp4"), make_sample("b0", "some/b.mp4", vid="the_b"), make_sample("a1", "some/a.mp4")]
TWO = [[3.0, 4.5, "he sits"], [1, "2.5s", "he waves"]]
EXPECTED = (Caption(1.0, 2.5, "he waves"), Caption(3.0, 4.5, "he sits"))


@pytest.mark.parametrize("name", ["some/a.mp4", "some/a", "a.mp4", "a"])
@pytest.mark.parametrize(
    "value",
    [
        TWO,
        [{"start": 3, "end": 4.5, "text": "he sits"}, {"start": 1.0, "end": 2.5, "text": "he waves"}],
        {"captions": TWO},
        {"duration": 20.0, "timestamps": [[3, 4.5], [1, 2.5]], "sentences": ["he sits", "he waves"]},
    ],
)
def test_one_file(run, name, value):
    report, captions = run(ROWS, captions={name: value, "the_b": [[0, 20, "all of it"]], "others": []})
    assert captions == {"a0": EXPECTED, "a1": EXPECTED, "b0": (Caption(0.0, 20.0, "all of it"),)}
    assert (report.videos, report.done, report.captions, report.windows) == (2, 2, 3, 0)
    assert report.coverage == pytest.approx((3.0 + 20.0) / 40) and report.events_per_minute == pytest.approx(60 * 3 / 40)


def test_a_file_for_each_video(run, tmp_path):
    (tmp_path / "folder" / "some").mkdir(parents=True)
    (tmp_path / "folder" / "some" / "a.json").write_text(json.dumps(TWO))
    (tmp_path / "folder" / "b.json").write_text("[[1, 2, ")
    report, captions = run(ROWS, "--captions=folder")
    assert captions == {"a0": EXPECTED, "a1": EXPECTED, "b0": ()}
    assert list(report.failed) == ["some/b.mp4"] and "b.json: is not a readable JSON file" in report.failed["some/b.mp4"]


def test_a_key_of_the_rows(run):
    rows = [
        make_sample("a0", "a.mp4", dense=TWO),
        make_sample("a1", "a.mp4", dense=[TWO[0], [5, 6, "he leaves"]]),
        make_sample("b0", "b.mp4"),
    ]
    report, captions = run(rows, "--captions_key=dense")
    assert captions["a0"] == captions["a1"] == (*EXPECTED, Caption(5.0, 6.0, "he leaves")) and captions["b0"] == ()
    assert report.failed == {"b.mp4": "no row of it has dense"} and report.rejected == {}


def test_captions_that_are_there_are_checked_again(run):
    rows = [Sample("a0", "a.mp4", "q", ((1.0, 2.0),), 20.0, captions=(*EXPECTED, EXPECTED[0]))]
    report, captions = run(rows, "--captions_key=captions")
    assert captions["a0"] == EXPECTED and report.done == 1


def test_every_caption_is_checked(run):
    bad = [[2, 1, "reversed"], [1, 2, " "], [25, 26, "late"], [1, 2], "text", [1.0, 2.5, "He waves!"], [19, 20.5, "he goes"]]
    report, captions = run(ROWS[:1], captions={"a": [*TWO, *bad]})
    assert captions["a0"] == (Caption(1.0, 2.5, "He waves!"), EXPECTED[1], Caption(19.0, 20.0, "he goes"))
    assert report.rejected == {
        "not a start, an end and a text": 2,
        "start not before end": 1,
        "no text": 1,
        "outside of what is shown": 1,
        "duplicate": 1,
    }


def test_a_video_whose_captions_are_all_bad_fails(run):
    report, captions = run(ROWS[:1], captions={"a": [[2, 1, "reversed"]]})
    assert captions["a0"] == () and report.done == 0
    assert report.failed["some/a.mp4"] == "none of its 1 captions can be used: {'start not before end': 1}"


def test_what_is_missing_or_of_another_form(run):
    rows = [make_sample(name, f"{name}.mp4") for name in "abcd"]
    forms = {"a": "he waves", "b": {"timestamps": [[1, 2]], "sentences": ["x", "y"]}, "c": {"text": []}}
    report, _ = run(rows, captions=forms)
    assert all(f"{name}: must be [[start, end, text], ...]" in report.failed[f"{name}.mp4"] for name in "abc")
    assert report.failed["d.mp4"] == "captions.json has nothing about it: looked for d.mp4, d"


CLIPS = [make_sample("first", "a.mp4", (0.0, 10.0), 10.0), make_sample("second", "a.mp4", (10.0, 30.0))]


def test_clips_have_names_of_their_own(run):
    _, captions = run(CLIPS, captions={"a.mp4@0-10": [[1, 2, "he sits"]], "a.mp4@10-30": [[1, 2, "he waves"]]})
    assert captions == {"first": (Caption(1.0, 2.0, "he sits"),), "second": (Caption(1.0, 2.0, "he waves"),)}


def test_a_name_that_stands_for_several_clips(run):
    report, _ = run(CLIPS, captions={"a": [[1, 2, "he sits"]]})
    assert report.failed["a.mp4@10-30"] == "a stands for 2 videos of the input: file it under a.mp4@10-30"


def test_captions_of_the_file_are_cut_to_its_clips(run):
    whole = [[1, 2, "he sits"], [8, 13, "he waves"], [25, 40, "he goes"], [35, 40, "nobody is here"]]
    report, captions = run(CLIPS, "--captions_clock=file", captions={"a": whole})
    assert captions["first"] == (Caption(1.0, 2.0, "he sits"), Caption(8.0, 10.0, "he waves"))
    assert captions["second"] == (Caption(0.0, 3.0, "he waves"), Caption(15.0, 20.0, "he goes"))
    assert report.done == 2


def test_videos_of_the_same_name_in_two_folders(run):
    rows = [make_sample("x", "x/a.mp4"), make_sample("y", "y/a.mp4")]
    report, captions = run(rows, "--captions_clock=file", captions={"a": TWO, "y/a": TWO})
    assert captions == {"x": (), "y": EXPECTED} and "a stands for 2 videos" in report.failed["x/a.mp4"]


@pytest.mark.parametrize(
    ("content", "message"), [("{", "captions.json: is not a readable JSON file"), ("[]", "must hold {video id: captions}")]
)
def test_a_file_that_holds_no_captions(run, tmp_path, content, message):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(CaptionError, match=message):
        run(ROWS, "--captions=captions.json")


def test_a_key_that_no_row_has(run):
    with pytest.raises(CaptionError, match="--captions_key dense: no row has captions there"):
        run(ROWS, "--captions_key=dense")
    with pytest.raises(CaptionError, match="--captions_key vid: vid of b0: must be"):
        run(ROWS, "--captions_key=vid")


@pytest.mark.parametrize(
    ("output", "flags", "expected"),
    [
        ("out.jsonl", [], "some/a.mp4"),
        ("deep/out.jsonl", ["--video_root=."], "some/a.mp4"),
        ("deep/out.jsonl", [], "{tmp_path}/some/a.mp4"),
    ],
)
def test_videos_are_found_again_from_the_output(run, tmp_path, output, flags, expected):
    run(ROWS, captions={"a": TWO})
    main(["--input=in.jsonl", "--captions=captions.json", f"--output={output}2.jsonl", *flags])
    row = json.loads((tmp_path / f"{output}2.jsonl").read_text().splitlines()[0])
    assert row["video"] == expected.format(tmp_path=tmp_path)
    assert {**row, "captions": [], "video": "some/a.mp4"} == json.loads((tmp_path / "in.jsonl").read_text().splitlines()[0])


def test_an_output_that_is_there_is_kept(run):
    run(ROWS, captions={"a": TWO})
    with pytest.raises(CaptionError, match=r"--output out\.jsonl: exists already; choose another, or delete it"):
        run(ROWS, captions={"a": TWO})
