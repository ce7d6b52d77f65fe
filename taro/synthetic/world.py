"""A small world of videos for grounding: coloured shapes that move, grow, shrink or blink on a noisy background.

Every action is visible from any two or three sampled frames, and only the *order* of the frames tells left from right, up
from down, growing from shrinking. Objects in one video share colours and shapes, so that a query needs all of its words.

    python -m taro.synthetic --output data/synthetic --videos 256 --seed 0

writes real H.264 files and `train.jsonl`, `validation.jsonl`, `test.jsonl`. The same seed gives the same bytes (on one
machine, with one version of the encoder). True spans are exact; captions are a captioner's (`--captions`, see
`taro.synthetic.captions`). With `--lookalikes` each target has a twin of its colour and shape that does the opposite, and
mostly the earlier one is asked for: any single frame of either looks like the target, and a guess that never looks at time is
often right. With `--tasks` there are questions of other tasks, too (`taro.synthetic.questions`). F frames, H and W pixels.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from taro.command_line import Parser, at_least
from taro.data.samples import Caption, Sample, save_samples
from taro.files import whole_file
from taro.synthetic.captions import CAPTIONERS, CaptionNoise, describe
from taro.synthetic.questions import ASKED, ask
from taro.tasks import DEFAULT

COLORS = {
    "red": (225, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 235),
    "yellow": (235, 215, 40),
    "purple": (180, 50, 205),
    "white": (240, 240, 240),
}
SHAPES = ("square", "circle", "triangle", "cross")
DIRECTIONS = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}
ACTIONS = (*DIRECTIONS, "grows", "shrinks", "blinks")
OPPOSITES = {"moves left": "moves right", "moves up": "moves down", "grows": "shrinks"}
OPPOSITES |= {action: opposite for opposite, action in OPPOSITES.items()}
EARLIER = 0.75  # share of the pairs of look-alikes whose earlier one is asked for

SIZES = ((56, 56), (64, 64), (72, 64), (64, 72), (96, 96))  # width, height in pixels
FRAME_RATES = (6.0, 8.0, 10.0, 12.0)
CANVAS = 56.0  # all lengths of the world are in units of a canvas of 56 x 56, stretched to the video's size
TIME_STEP = 0.5  # event boundaries are multiples of this, seconds
NOISE = 5.0  # standard deviation of the noise of each frame, in grey levels
BLINK_PERIOD = 1.0  # seconds; half of it hidden. Sampling at 2 frames a second meets both halves
Look = tuple[str, str, str]  # colour, shape, action
# Each split draws its scenes from seeds of its own.
SPLITS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}


@dataclass(frozen=True)
class WorldSettings:
    """What a scene is drawn from, and who captions it. Durations in seconds, ranges inclusive."""

    min_duration: int = 16
    max_duration: int = 24
    min_events: int = 2
    max_events: int = 3
    min_event: float = 2.0
    max_event: float = 9.0
    captions: CaptionNoise = CAPTIONERS["exact"]
    lookalikes: bool = False  # two of the events differ in the order of their frames alone, and one of them is asked for
    tasks: tuple[str, ...] = (DEFAULT,)  # of the questions

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.min_duration <= self.max_duration:
            problems.append(f"durations are 0 < min <= max, got {self.min_duration} and {self.max_duration}")
        if not 1 <= self.min_events <= self.max_events:
            problems.append(f"event counts are 1 <= min <= max, got {self.min_events} and {self.max_events}")
        if not TIME_STEP <= self.min_event <= self.max_event:
            problems.append(f"event lengths are {TIME_STEP} <= min <= max, got {self.min_event} and {self.max_event}")
        problems += [f"there are no questions of {task!r}: {', '.join(ASKED)}" for task in self.tasks if task not in ASKED]
        if self.lookalikes and self.min_events < 2:
            problems.append(f"look-alikes are two events, got min_events {self.min_events}")
        if self.max_events * self.min_event > self.min_duration:
            problems.append(
                f"{self.max_events} events of {self.min_event} s do not fit into a video of {self.min_duration} s: "
                "lower max_events or min_event, or raise min_duration"
            )
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class Event:
    """One object that does one thing from `start` to `end` (seconds) and is absent otherwise."""

    start: float
    end: float
    color: str
    shape: str
    action: str
    x: float  # position at `start`, canvas units
    y: float
    radius: float  # half of the object's side, canvas units
    speed: float  # canvas units per second, or growth cycles per 3 s

    @property
    def text(self) -> str:
        return f"the {self.color} {self.shape} {self.action}"

    def placement(self, time: float) -> tuple[float, float, float] | None:
        """Centre x, y and radius at `time` (canvas units), None while it is hidden."""
        if not self.start <= time < self.end:
            return None
        elapsed = time - self.start
        if self.action in DIRECTIONS:
            dx, dy = DIRECTIONS[self.action]
            travelled = self.speed * elapsed
            return (self.x + dx * travelled) % CANVAS, (self.y + dy * travelled) % CANVAS, self.radius
        if self.action == "blinks":
            visible = (time % BLINK_PERIOD) < BLINK_PERIOD / 2
            return (self.x, self.y, self.radius) if visible else None
        if self.action in ("grows", "shrinks"):
            phase = (elapsed / 3.0 * self.speed) % 1.0
            scale = 0.4 + 0.9 * (phase if self.action == "grows" else 1.0 - phase)
            return self.x, self.y, self.radius * scale
        raise ValueError(f"unknown action {self.action!r}, allowed: {', '.join(ACTIONS)}")


@dataclass(frozen=True)
class Scene:
    """A whole video before it is drawn."""

    seed: int
    width: int
    height: int
    fps: float
    duration: float
    events: tuple[Event, ...]
    background: tuple[int, int, int]
    prop: tuple[float, float, float, str] | None  # a grey object that never does anything: x, y, radius, shape
    asked: tuple[int, ...]  # places of the events that there are queries for

    def absent(self, rng: random.Random) -> str:
        """What doesn't happen, half of the time to something that looks like what is there."""
        return "the {} {} {}".format(*_draw_look(rng, [(event.color, event.shape, event.action) for event in self.events]))

    @property
    def frame_count(self) -> int:
        return round(self.duration * self.fps)

    def render(self, indices: np.ndarray) -> np.ndarray:
        """The frames with these indices: (F,) integers -> (F, H, W, 3) uint8. A frame does not depend on the others."""
        rng = np.random.default_rng((self.seed, 7))
        blocks = rng.integers(-12, 13, size=(8, 8, 3))
        rows = np.arange(self.height) * 8 // self.height
        columns = np.arange(self.width) * 8 // self.width
        still = np.asarray(self.background, np.float32) + blocks[rows][:, columns]  # (H, W, 3)
        grid_x = ((np.arange(self.width) + 0.5) * CANVAS / self.width).astype(np.float32)[None, :]
        grid_y = ((np.arange(self.height) + 0.5) * CANVAS / self.height).astype(np.float32)[:, None]
        if self.prop is not None:
            x, y, radius, shape = self.prop
            still[_covers(shape, grid_x, grid_y, x, y, radius)] = (128, 128, 128)
        frames = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        for row, index in enumerate(indices):
            frame = still.copy()
            for event in self.events:
                placement = event.placement(int(index) / self.fps)
                if placement is not None:
                    frame[_covers(event.shape, grid_x, grid_y, *placement)] = COLORS[event.color]
            noise_rng = np.random.default_rng((self.seed, 11, int(index)))
            frame += noise_rng.standard_normal(frame.shape, dtype=np.float32) * NOISE
            frames[row] = np.clip(np.rint(frame), 0, 255)
        return frames


def _covers(shape: str, grid_x: np.ndarray, grid_y: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Pixels that the shape covers, (H, W) bool. The canvas wraps around at its edges."""
    half = CANVAS / 2
    dx = (grid_x - x + half) % CANVAS - half  # (1, W)
    dy = (grid_y - y + half) % CANVAS - half  # (H, 1)
    if shape == "square":
        return (np.abs(dx) <= radius) & (np.abs(dy) <= radius)
    if shape == "circle":
        return dx**2 + dy**2 <= radius**2
    if shape == "triangle":
        return (np.abs(dy) <= radius) & (np.abs(dx) <= (dy + radius) / 2)
    if shape == "cross":
        arm = radius * 0.36
        wide, tall = np.abs(dx) <= radius, np.abs(dy) <= radius
        return (wide & (np.abs(dy) <= arm)) | (tall & (np.abs(dx) <= arm))
    raise ValueError(f"unknown shape {shape!r}, allowed: {', '.join(SHAPES)}")


def draw_scene(seed: int, settings: WorldSettings | None = None) -> Scene:
    """The scene of this seed. Two events of a scene never have the same words."""
    settings = settings or WorldSettings()
    rng = random.Random(seed)
    duration = float(rng.randint(settings.min_duration, settings.max_duration))
    width, height = rng.choice(SIZES)
    looks: list[Look] = []
    count = rng.randint(settings.min_events, settings.max_events)
    if settings.lookalikes:
        looks, asked = _draw_lookalikes(rng, count)
    else:
        asked = list(range(count))
        for _ in asked:
            looks.append(_draw_look(rng, looks))
    spans = _draw_spans(rng, len(looks), duration, settings)
    events = tuple(
        Event(
            start=start,
            end=end,
            color=color,
            shape=shape,
            action=action,
            x=rng.uniform(12, CANVAS - 12),
            y=rng.uniform(12, CANVAS - 12),
            radius=rng.uniform(8, 11),
            speed=rng.uniform(8, 16) if action in DIRECTIONS else rng.uniform(0.9, 1.3),
        )
        for (start, end), (color, shape, action) in zip(spans, looks, strict=True)
    )
    prop = None
    if rng.random() < 0.25:
        prop = (rng.uniform(8, CANVAS - 8), rng.uniform(8, CANVAS - 8), rng.uniform(3, 5), rng.choice(SHAPES))
    background = tuple(rng.randint(20, 110) for _ in range(3))
    return Scene(seed, width, height, rng.choice(FRAME_RATES), duration, events, background, prop, tuple(asked))


def _draw_look(rng: random.Random, taken: list[Look]) -> Look:
    """Colour, shape, action; half of the time it takes the colour or the shape, or both, of an earlier event."""
    while True:
        color, shape, action = rng.choice(list(COLORS)), rng.choice(SHAPES), rng.choice(ACTIONS)
        if taken and rng.random() < 0.5:
            other_color, other_shape, _ = rng.choice(taken)
            share = rng.choice(("color", "shape", "both"))
            color = other_color if share != "shape" else color
            shape = other_shape if share != "color" else shape
        if (color, shape, action) not in taken:
            return color, shape, action


def _draw_lookalikes(rng: random.Random, count: int) -> tuple[list[Look], list[int]]:
    """Looks of `count` events, two of which are twins with opposite actions; and the place of the twin that is asked for."""
    color, shape, action = rng.choice(list(COLORS)), rng.choice(SHAPES), rng.choice(list(OPPOSITES))
    twins = [(color, shape, action), (color, shape, OPPOSITES[action])]
    looks = list(twins)
    while len(looks) < count:
        looks.append(_draw_look(rng, looks))
    rng.shuffle(looks)
    earlier, later = sorted(looks.index(twin) for twin in twins)
    return looks, [earlier if rng.random() < EARLIER else later]


def _draw_spans(rng: random.Random, count: int, duration: float, settings: WorldSettings) -> list[tuple[float, float]]:
    """Disjoint spans in order of time, on the grid of TIME_STEP; about a third of the gaps are empty."""
    steps = int(duration / TIME_STEP)
    shortest, longest = math.ceil(settings.min_event / TIME_STEP), math.floor(settings.max_event / TIME_STEP)
    while True:
        lengths = [rng.randint(shortest, longest) for _ in range(count)]
        if sum(lengths) <= steps:
            break
    weights = [0.0 if 0 < i < count and rng.random() < 1 / 3 else rng.random() for i in range(count + 1)]
    free, total = steps - sum(lengths), sum(weights)
    gaps = [int(free * weight / total) for weight in weights]
    spans, position = [], 0
    for gap, length in zip(gaps, lengths, strict=False):
        position += gap
        spans.append((position * TIME_STEP, (position + length) * TIME_STEP))
        position += length
    return spans


def scene_samples(
    scene: Scene, video: str, noise: CaptionNoise = CAPTIONERS["exact"], tasks: Sequence[str] = (DEFAULT,)
) -> list[Sample]:
    """One sample for each event of the scene that is asked for, and the questions of other tasks, all with the same dense
    captions."""
    truth = [Caption(event.start, event.end, event.text) for event in scene.events]
    captions = describe(truth, scene.duration, noise, scene.seed)
    samples = [
        Sample(
            id=f"{Path(video).stem}_{number}",
            video=video,
            query=scene.events[number].text,
            spans=((scene.events[number].start, scene.events[number].end),),
            duration=scene.duration,
            captions=captions,
        )
        for number in (scene.asked if DEFAULT in tasks else ())
    ]
    others = (ask(task, scene, video, Path(video).stem, captions) for task in tasks if task != DEFAULT)
    return samples + [sample for of_task in others for sample in of_task]


def write_video(scene: Scene, path: Path, crf: int = 20) -> None:
    """Encode the scene as H.264 (yuv420p) in an mp4 file, which is whole or absent."""
    # x264's macroblock tree reads memory beyond pictures as small as these: with it the bytes differ from run to run.
    options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    with (
        whole_file(path, sync=False) as file,
        av.open(file.name, "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(scene.fps).limit_denominator(1000), options=options)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        stream.thread_count = 1  # x264 makes the same bytes only with a fixed number of threads
        for start in range(0, scene.frame_count, 64):
            for array in scene.render(np.arange(start, min(start + 64, scene.frame_count))):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())


def _make_video(job: tuple[int, str, WorldSettings]) -> list[Sample]:
    seed, path, settings = job
    scene = draw_scene(seed, settings)
    write_video(scene, Path(path))
    return scene_samples(scene, path, settings.captions, settings.tasks)


def first_seed(split: str, seed: int) -> int:
    """Of the scenes of a split, whose videos take it and those that follow."""
    return int(hashlib.sha256(f"world {seed}".encode()).hexdigest()[:8], 16) * 10_000_000 + SPLITS[split]


def make_split(
    output: Path, split: str, videos: int, seed: int, settings: WorldSettings, workers: int | None = None
) -> list[Sample]:
    """Write the videos of one split and its samples file `<split>.jsonl`; returns the samples."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, allowed: {', '.join(SPLITS)}")
    folder = output / split
    folder.mkdir(parents=True, exist_ok=True)
    first = first_seed(split, seed)
    jobs = [(first + number, str(folder / f"{split}_{number:05d}.mp4"), settings) for number in range(videos)]
    with ProcessPoolExecutor(workers) as pool:
        samples = [sample for group in pool.map(_make_video, jobs, chunksize=4) for sample in group]
    save_samples(samples, output / f"{split}.jsonl", relative_to=output)
    return samples


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the videos and the jsonl files")
    parser.add_argument("--videos", type=at_least(0), default=256, help="videos of the training split")
    parser.add_argument("--validation_videos", type=at_least(0), default=48)
    parser.add_argument("--test_videos", type=at_least(0), default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--captions", choices=CAPTIONERS, default="looser", help="how good they are; true spans are exact")
    parser.add_argument("--lookalikes", action="store_true", help="each target has a twin that does the opposite")
    parser.add_argument("--tasks", nargs="+", choices=ASKED, default=[DEFAULT], help="of the questions (docs/tasks.md)")
    parser.add_argument("--workers", type=at_least(1), help="processes; all cores unless given")
    args = parser.parse_args(arguments)
    tasks = tuple(dict.fromkeys(args.tasks))
    settings = WorldSettings(captions=CAPTIONERS[args.captions], lookalikes=args.lookalikes, tasks=tasks)
    counts = {"train": args.videos, "validation": args.validation_videos, "test": args.test_videos}
    for split, videos in counts.items():
        if videos > 0:
            samples = make_split(args.output, split, videos, args.seed, settings, args.workers)
            print(f"{args.output / split}.jsonl: {videos} videos, {len(samples)} queries")
