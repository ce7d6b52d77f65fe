"""Small files of each public format, made by hand, and the samples that they hold."""

import json

from taro.data.samples import Sample, load_samples
from taro.prepare.convert import convert


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(*rows):
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def converted(folder, source, content, name="raw.json", **settings):
    """The conversion of one file, whose samples are those that the output gives back."""
    output = folder / "out.jsonl"
    conversion = convert(source, [write(folder / name, content)], output, **settings)
    assert load_samples(output, bad_rows="keep", video_root=settings.get("video_root")) == list(conversion.samples)
    return conversion


def sample_in(folder, id, video, query, *spans, **more):
    return Sample(id, str(folder / video), query, spans, **more)


LENGTHS = "id,subject,length\nAO8RW,X,33.67\n3MSZA,Y,31.0\n"
CHARADES = "AO8RW 0.0 6.9##a person puts a book away.\n3MSZA 24.3 30.4##person turns, light on.\nAO8RW 1 2##x##y\n"
ACTIVITYNET = {
    "v_a": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81]],
        "sentences": ["A man waxes.", " He stops."],
        "x": 1,
    },
    "v_b": {"duration": 5, "timestamps": [[0, 5]], "sentences": ["All."]},
}
QVHIGHLIGHTS = {
    "qid": 8737,
    "query": "A family plays.",
    "duration": 126,
    "vid": "bP5_660.0_810.0",
    "relevant_windows": [[0, 16], [20, 22]],
    "relevant_clip_ids": [0, 1],
    "saliency_scores": [[4, 1, 1], [4, 2, 1]],
}
TVGBENCH = {
    "path": "./dataset/tvgbench_data/aHD.mp4",
    "question": "check the gas",
    "answer": "9.94-45.5",
    "start": 53.0,
    "end": 152.0,
    "duration": 99.0,
    "qsemtype": "Object Transition",
}
TIMER1 = {
    "video": "./videos/QtW_00:00:39:000_00:01:24:700.mp4",
    "duration": 45.7,
    "timestamp": [1.0, 4.0],
    "sentence": "A hanger.",
    "qid": "my|cosmo|QtW|A hanger.",
    "video_start": 39.0,
    "video_end": 84.7,
    "difficulty": 50.0,
}
TACOS = {
    "s13-d21.avi": {
        "num_frames": 3000,
        "fps": 30,
        "timestamps": [[252, 452], [600, 900]],
        "sentences": ["He washes.", "He cuts."],
    }
}
TARO = {
    "qid": "test0",
    "query": "a person sits",
    "video_start": None,
    "video_end": None,
    "duration": 30.12,
    "vid": "KWZSA",
    "relevant_windows": [[13.4, 28.1]],
    "video_file": "KWZSA.mp4",
}
TARO_TRAINING = {
    "data_source": "vtgbench",
    "prompt": [{"role": "user", "content": '<video>Pinpoint the event "a "big" dog" in the video, say "when" in the answer.'}],
    "videos": ["data/tvgbench_data/f04.mp4"],
    "video_start": 329.27,
    "video_end": 454.71,
    "reward_model": {"style": "rule", "ground_truth": [79.09, 81.67]},
    "extra_info": {"split": "test", "index": 796, "duration": 125.44},
}
EGO4D = {
    "version": "1",
    "videos": [
        {
            "video_uid": "vid",
            "clips": [
                {
                    "clip_uid": "clip",
                    "video_start_sec": 100.0,
                    "video_end_sec": 580.0,
                    "annotations": [
                        {
                            "annotation_uid": "ann",
                            "language_queries": [
                                {
                                    "clip_start_sec": 1.5,
                                    "clip_end_sec": 4,
                                    "query": "Where is it?",
                                    "template": "T",
                                    "slot_x": "it",
                                },
                                {"clip_start_sec": 7.0, "clip_end_sec": 7.0, "query": "What?", "video_start_sec": 107.0},
                            ],
                        }
                    ],
                }
            ],
        }
    ],
}


def expected_of(source, folder):
    def sample(*values, **more):
        return sample_in(folder, *values, **more)

    uids = {"video_uid": "vid", "clip_uid": "clip", "annotation_uid": "ann"}
    return {
        "charades": [
            sample("AO8RW_0", "AO8RW.mp4", "a person puts a book away.", (0.0, 6.9), duration=33.67),
            sample("3MSZA_0", "3MSZA.mp4", "person turns, light on.", (24.3, 30.4), duration=31.0),
            sample("AO8RW_1", "AO8RW.mp4", "x##y", (1.0, 2.0), duration=33.67),
        ],
        "activitynet": [
            sample("v_a_0", "v_a.mp4", "A man waxes.", (0.83, 19.86), duration=82.73, extra={"x": 1}),
            sample("v_a_1", "v_a.mp4", " He stops.", (17.37, 60.81), duration=82.73, extra={"x": 1}),
            sample("v_b_0", "v_b.mp4", "All.", (0.0, 5.0), duration=5.0),
        ],
        "qvhighlights": [
            sample(
                "8737",
                "bP5_660.0_810.0.mp4",
                "A family plays.",
                (0.0, 16.0),
                (20.0, 22.0),
                duration=126.0,
                extra={name: QVHIGHLIGHTS[name] for name in ("vid", "relevant_clip_ids", "saliency_scores")},
            )
        ],
        "tvgbench": [
            sample(
                "aHD_0",
                "aHD.mp4",
                "check the gas",
                (9.94, 45.5),
                duration=99.0,
                clip=(53.0, 152.0),
                extra={"qsemtype": "Object Transition"},
            )
        ],
        "timer1": [
            sample(
                "my|cosmo|QtW|A hanger.",
                "QtW_00:00:39:000_00:01:24:700.mp4",
                "A hanger.",
                (1.0, 4.0),
                duration=45.7,
                clip=(39.0, 84.7),
                extra={"difficulty": 50.0},
            )
        ],
        "tacos": [
            sample(
                "s13-d21_0", "s13-d21.avi", "He washes.", (8.4, 452 / 30), duration=100.0, extra={"num_frames": 3000, "fps": 30}
            ),
            sample("s13-d21_1", "s13-d21.avi", "He cuts.", (20.0, 30.0), duration=100.0, extra={"num_frames": 3000, "fps": 30}),
        ],
        "ego4d_nlq": [
            sample(
                "clip_ann_0",
                "clip.mp4",
                "Where is it?",
                (1.5, 4.0),
                duration=480.0,
                extra={"template": "T", "slot_x": "it", **uids},
            ),
            sample("clip_ann_1", "clip.mp4", "What?", (7.0, 7.0), duration=480.0, extra={"video_start_sec": 107.0, **uids}),
        ],
        "taro": [
            sample("test0", "KWZSA.mp4", "a person sits", (13.4, 28.1), duration=30.12, extra={"vid": "KWZSA"}),
            sample(
                "test796",
                "f04.mp4",
                'a "big" dog',
                (79.09, 81.67),
                duration=125.44,
                clip=(329.27, 454.71),
                extra={"data_source": "vtgbench", "extra_info": TARO_TRAINING["extra_info"]},
            ),
        ],
    }[source]


RAW = {
    "charades": CHARADES,
    "activitynet": ACTIVITYNET,
    "qvhighlights": lines(QVHIGHLIGHTS),
    "tvgbench": [TVGBENCH],
    "timer1": [TIMER1],
    "tacos": TACOS,
    "ego4d_nlq": EGO4D,
    "taro": [TARO, TARO_TRAINING],
}
