import json
from dataclasses import asdict

from taro.data.samples import Caption
from taro.prepare.caption.report import CaptionedVideo, CaptionReport, covered_seconds, make_report, print_report
from taro.rows import read_objects


def test_report_of_known_captions(capsys):
    def of(*spans):
        return tuple(Caption(start, end, "a") for start, end in spans)

    assert covered_seconds(of((5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5))) == 4.0
    videos = [
        CaptionedVideo("a", 10.0, of((0, 4), (2, 6)), windows=2, unread=1, cut=2, rejected={"no text": 2}),
        CaptionedVideo("b", 30.0, of((0, 3)), windows=1, rejected={"no text": 1, "duplicate": 1}),
        CaptionedVideo("c", 60.0, failure="[gone]", windows=1, unread=1),
    ]
    rows = {video.id: json.loads(json.dumps(asdict(video))) for video in videos}
    assert list(read_objects(CaptionedVideo, rows, "video").values()) == videos
    report = make_report(videos, asked=5)
    assert report == CaptionReport(5, 2, {"c": "[gone]"}, 2, 3, 9 / 40, 60 * 3 / 40, 4, 2, 2, {"no text": 3, "duplicate": 1})
    print_report(report)
    shown = capsys.readouterr().out
    assert "failed: c: [gone]" in shown and "0.225" in shown and "3 no text, 1 duplicate" in shown


def test_a_report_shows_the_first_failures(capsys):
    report = make_report([CaptionedVideo(str(k), 1.0, failure="x") for k in range(25)], asked=25)
    print_report(report)
    assert capsys.readouterr().out.count("failed: ") == 20 and len(report.failed) == 25
