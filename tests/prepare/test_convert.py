"""Small files of each public format, made by hand, and the real ones where they are."""

import json
from pathlib import Path

import pytest
from public_formats import (
    ACTIVITYNET,
    CHARADES,
    LENGTHS,
    TARO,
    TIMER1,
    converted,
    write,
)

from taro.data.rows import SPAN_FAULTS
from taro.data.samples import Caption, load_samples
from taro.prepare.convert import ConvertError, convert, describe, find_licenses, main

ANNOTATIONS = Path(__file__).resolve().parents[3] / "shared" / "annotations"


def annotation_file(name):
    path = ANNOTATIONS / name
    if not path.exists():
        pytest.skip(f"{path} is not there: the real annotation files are not part of the repository")
    return path


def test_ids_are_the_same_whatever_was_dropped_and_go_on_over_files(tmp_path):
    first = write(tmp_path / "val_1.json", {"v": {"duration": 9, "timestamps": [[0, 1], [1, 2]], "sentences": ["", "a"]}})
    second = write(tmp_path / "val_2.json", {"v": {"duration": 9, "timestamps": [[0, 3]], "sentences": ["b"]}})
    conversion = convert("activitynet", [first, second], tmp_path / "out.jsonl", bad_rows="drop")
    assert [(sample.id, sample.query) for sample in conversion.samples] == [("v_1", "a"), ("v_2", "b")]


@pytest.mark.parametrize(
    "span, kind",
    [
        ([3.0, 3.0], "zero_length_span"),
        ([4.0, 3.0], "reversed_span"),
        ([8.0, 11.0], "span_partly_outside"),
        ([11.0, 12.0], "span_outside"),
        ([8.0, 14220.0], "span_far_outside"),
    ],
)
def test_misplaced_truths_are_kept_as_they_are_and_counted(tmp_path, span, kind):
    good = {**TIMER1, "qid": "good", "duration": 10.0, "video_start": None, "video_end": None}
    conversion = converted(tmp_path, "timer1", [good, {**good, "qid": "bad", "timestamp": span}])
    assert conversion.samples[1].spans == (tuple(span),)
    assert [(row.place, row.sample.id) for row in conversion.kept] == [("raw.json row 2", "bad")]
    assert [fault.kind for fault in conversion.kept[0].faults] == [kind]
    text = describe(conversion, tmp_path / "out.jsonl")
    assert "2 samples of 1 videos, 0 of them clips" in text and "kept as they are: 1 where a span" in text
    assert "(raw.json row 2)" in text and "left out" not in text


def test_a_clip_that_is_not_as_long_as_the_duration_is_kept_and_counted(tmp_path):
    conversion = converted_without_loading(tmp_path, "timer1", [{**TIMER1, "video_end": 184.7}])
    assert conversion.samples[0].clip == (39.0, 184.7)
    assert "1 where the clip's length is not the duration" in describe(conversion, tmp_path / "out.jsonl")


def converted_without_loading(folder, source, content):
    return convert(source, [write(folder / "raw.json", content)], folder / "out.jsonl")


def test_ids_that_two_files_share_are_named(tmp_path):
    paths = [write(tmp_path / name, [TARO]) for name in ("a.json", "b.json")]
    with pytest.raises(ConvertError, match=r"b\.json row 1: qid: .*a\.json row 1 has it too"):
        convert("taro", paths, tmp_path / "out.jsonl")


def test_nothing_is_written_where_no_sample_is_left(tmp_path):
    with pytest.raises(ConvertError, match=r"no samples \(1 rows read\)"):
        converted(tmp_path, "timer1", [{**TIMER1, "sentence": ""}], bad_rows="drop")
    assert not (tmp_path / "out.jsonl").exists()


def test_wrong_paths_are_all_named_and_inputs_never_written_to(tmp_path):
    raw = write(tmp_path / "raw.json", [TIMER1])
    with pytest.raises(ConvertError) as error:
        convert("timer1", [tmp_path / "none.json", raw], raw, video_root=tmp_path / "none", durations=[tmp_path])
    text = str(error.value)
    parts = ("--input", "--durations", "--video_root", f"--output {raw}: is an input")
    assert all(part in text for part in parts) and len(text.splitlines()) == 4
    assert json.loads(raw.read_text()) == [TIMER1]
    link = tmp_path / "link.jsonl"
    link.symlink_to(raw)
    with pytest.raises(ConvertError, match="is an input"):
        convert("timer1", [raw], link)
    with pytest.raises(ConvertError, match="is a folder"):
        convert("timer1", [raw], tmp_path)


def test_a_video_gets_the_ending_that_it_has_and_missing_ones_are_counted(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("v_a.webm", "v_a.json", "v_b.mp4", "v_b.mkv", "other.mp4"):
        (folder / name).touch()
    content = {**ACTIVITYNET, "v_c": ACTIVITYNET["v_b"]}
    conversion = converted(tmp_path, "activitynet", content, video_root=folder)
    assert [Path(sample.video).name for sample in conversion.samples] == ["v_a.webm", "v_a.webm", "v_b.mp4", "v_c.mp4"]
    assert [sample.id for sample in conversion.samples] == ["v_a_0", "v_a_1", "v_b_0", "v_c_0"]
    assert conversion.missing == ("v_c.mp4",)
    assert f"not in {folder}: 1 of the videos (v_c.mp4)" in describe(conversion, tmp_path / "out.jsonl", folder)
    written = [json.loads(line)["video"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == ["v_a.webm", "v_a.webm", "v_b.mp4", "v_c.mp4"]


def test_a_duration_that_is_nowhere_else_is_read_from_the_video(tmp_path, synthetic):
    known = load_samples(synthetic / "train.jsonl")[0]
    row = {"qry_text": "it moves", "answering_time_interval": [[0, 1]], "task": "x"}
    rows = [row | {"src_video_path": f"./{name}"} for name in (Path(known.video).name, "gone.mp4")]
    conversion = convert(
        "momentseeker", [write(tmp_path / "t2v.json", rows)], tmp_path / "out.jsonl", video_root=Path(known.video).parent
    )
    assert conversion.samples[0].duration == pytest.approx(known.duration, abs=0.1) and conversion.missing == ("gone.mp4",)
    assert [fault.kind for row in conversion.kept for fault in row.faults] == ["no_duration"]


def test_other_sentences_of_the_video_become_captions(tmp_path):
    times = [[5, 8], [0, 4], [3, 3], [2, 30], [4, 6]]
    content = {
        "v": {"duration": 10, "timestamps": times, "sentences": ["late", " early ", "none", "outside", "middle"]},
        "w": {"duration": 10, "timestamps": [[0, 1]], "sentences": ["elsewhere"]},
    }
    conversion = converted(tmp_path, "activitynet", content, captions=True)
    captions = {sample.query: [caption.text for caption in sample.captions] for sample in conversion.samples}
    assert captions["late"] == ["early", "middle"] and captions[" early "] == ["middle", "late"]
    assert captions["none"] == captions["outside"] == ["early", "middle", "late"] and captions["elsewhere"] == []
    assert conversion.samples[0].captions[0] == Caption(0.0, 4.0, "early")


def test_captions_are_of_the_same_file_and_clip_and_replace_none(tmp_path):
    own = [{"start": 0, "end": 1, "text": "own"}]
    clip = {"video_start": 5.0, "video_end": 35.12}
    rows = [TARO, {**TARO, "qid": 1, "query": "b"}, {**TARO, "qid": 2, "captions": own}, {**TARO, **clip, "qid": 3}]
    first, second = write(tmp_path / "a.json", rows), write(tmp_path / "b.json", [{**TARO, "qid": 4, "query": "c"}])
    conversion = convert("taro", [first, second], tmp_path / "out.jsonl", captions=True)
    texts = [[caption.text for caption in sample.captions] for sample in conversion.samples]
    assert texts == [["b", "a person sits"], ["a person sits", "a person sits"], ["own"], [], []]
    without = convert("taro", [first], tmp_path / "out.jsonl")
    assert [len(sample.captions) for sample in without.samples] == [0, 0, 1, 0]


def test_the_command_writes_and_says_what_it_did(tmp_path, capsys):
    raw, lengths = write(tmp_path / "raw.txt", CHARADES), write(tmp_path / "lengths.csv", LENGTHS)
    output = tmp_path / "new" / "out.jsonl"
    main(["--source", "charades", "--input", str(raw), "--output", str(output), "--durations", str(lengths)])
    said, license = capsys.readouterr().out.splitlines()
    assert said == f"{output}: 3 samples of 2 videos, 0 of them clips of a longer file"
    assert license.startswith("license: videos: Charades' own")
    assert list(output.parent.iterdir()) == [output]
    assert len(load_samples(output)) == 3


@pytest.mark.parametrize(
    ("source", "names", "licenses"),
    [
        ("ra_rft", ["hi_vtg_tvgbench.json"], ["annotations: Apache-2.0; videos: those of TVGBench"]),
        (
            "ra_rft",
            ["hi_vtg_charades.json", "ss_vtg_qvhighlight.json"],
            [
                "annotations: Apache-2.0; videos: those of Charades (HI-VTG-Charades)",
                "annotations: Apache-2.0; videos: those of QVHighlights (SS-VTG-QVHighlights)",
            ],
        ),
        ("timelens", ["renamed.json"], ["academic use only, not for use within the European Union"]),
        ("nextgqa", ["test.csv"], []),
    ],
)
def test_the_licenses_are_of_the_files_that_are_converted(source, names, licenses):
    """Of those that only some of several have, with whose they are."""
    assert find_licenses(source, [Path("some/where") / name for name in names]) == licenses
    assert len(find_licenses("ra_rft", [Path("renamed.json")])) == 3


def test_the_command_reports_problems_without_a_traceback(tmp_path, run_module):
    raw = write(tmp_path / "raw.json", {"videos": 1})
    for path, message in ((tmp_path / "none.json", "--input "), (raw, "1 of 1 rows can't be samples")):
        arguments = ["--source=activitynet", f"--input={path}", f"--output={tmp_path}/out.jsonl"]
        assert run_module("taro.prepare.convert", *arguments).startswith(f"error: {message}")


# ---- The real files ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, name, samples, videos, clips",
    [
        ("taro", "charades_one_video.jsonl", 6, 1, 0),
        ("taro", "charades_sta_test.jsonl", 3720, 1334, 0),
        ("taro", "activitynet_val_1.jsonl", 15933, 4475, 0),
        ("qvhighlights", "qvhighlights_val.jsonl", 1550, 1519, 0),
        ("taro", "tvgbench.jsonl", 800, 462, 252),
        ("tvgbench", "timer1_tvgbench.json", 800, 462, 252),
        ("timer1", "timer1_train_2k5.json", 2500, 2475, 665),
    ],
)
def test_real_files_are_read_whole(tmp_path, source, name, samples, videos, clips):
    conversion = convert(source, [annotation_file(name)], tmp_path / "out.jsonl")
    assert len(conversion.samples) == samples and not conversion.dropped
    assert len({sample.id for sample in conversion.samples}) == samples
    assert len({sample.video for sample in conversion.samples}) == videos
    assert sum(sample.clip is not None for sample in conversion.samples) == clips
    assert all(fault.kind in SPAN_FAULTS for row in conversion.kept for fault in row.faults)
    assert load_samples(tmp_path / "out.jsonl", bad_rows="keep") == list(conversion.samples)


def test_both_releases_of_tvgbench_say_the_same(tmp_path):
    ours, theirs = (
        convert(source, [annotation_file(name)], tmp_path / "out.jsonl").samples
        for source, name in (("tvgbench", "timer1_tvgbench.json"), ("taro", "tvgbench.jsonl"))
    )
    assert list(map(without_id, ours)) == list(map(without_id, theirs))


@pytest.mark.slow
def test_raw_files_give_what_the_benchmark_files_say(tmp_path):
    """The raw forms of Charades-STA and ActivityNet Captions, written from the benchmark files."""
    charades = load_samples(annotation_file("charades_sta_test.jsonl"), video_root=tmp_path)
    rows = [f"{s.extra['vid']} {s.spans[0][0]} {s.spans[0][1]}##{s.query}" for s in charades]
    lengths = {s.extra["vid"]: s.duration for s in charades}
    table = write(tmp_path / "lengths.csv", "id,length\n" + "\n".join(f"{vid},{length}" for vid, length in lengths.items()))
    raw = write(tmp_path / "charades.txt", "\n".join(rows))
    back = convert("charades", [raw], tmp_path / "out.jsonl", durations=[table]).samples
    assert list(map(without_id, back)) == list(map(without_id, charades))

    captions = load_samples(annotation_file("activitynet_val_1.jsonl"), video_root=tmp_path, limit=2000)
    videos = {}
    for sample in captions:
        entry = videos.setdefault(Path(sample.video).stem, {"duration": sample.duration, "timestamps": [], "sentences": []})
        entry["timestamps"].append(sample.spans[0])
        entry["sentences"].append(sample.query)
    back = convert("activitynet", [write(tmp_path / "val_1.json", videos)], tmp_path / "out.jsonl").samples
    assert len(back) == 2000 and {without_id(sample) for sample in back} == {without_id(sample) for sample in captions}


def without_id(sample):
    return sample.video, sample.query, sample.spans, sample.duration, sample.clip
