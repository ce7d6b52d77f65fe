"""Samples as prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch.utils.data import Dataset

from taro.cache import DiskCacheSettings, TensorCache
from taro.data.examples import GroundingExample
from taro.data.rows import durations_agree
from taro.data.samples import Sample
from taro.models.prompt import PromptBuilder, PromptError
from taro.models.settings import GroundingSettings
from taro.tasks import find_task
from taro.video.frame_cache import FrameCache
from taro.video.load import Video, VideoError, load_video

Change = Callable[[Video, Sample], Video]
CACHED_BYTES = 256 * 2**20  # decoded frames that each worker keeps: queries of one video, and epochs, come back to them


class GroundingDataset(Dataset):
    """Decodes a sample's video and builds its prompt; what is wrong with one sample is kept as its `failure`.

    With `check_durations`, for training, where rewards follow from them, a sample fails whose duration is not its video's or
    clip's. With `frame_cache`, frames that were decoded once come from there; its `counts` are those of this worker.
    `change` makes of a video what the model is shown.
    """

    def __init__(
        self,
        samples: list[Sample],
        builder: PromptBuilder,
        settings: GroundingSettings,
        frame_cache: DiskCacheSettings | None = None,
        check_durations: bool = False,
        change: Change | None = None,
    ) -> None:
        self.samples, self.builder, self.settings = samples, builder, settings
        self.check_durations, self.change = check_durations, change
        self.frame_cache = frame_cache and FrameCache(TensorCache.from_settings(frame_cache, "data.frame_cache"))
        self.videos: OrderedDict[tuple[str, tuple[float, float] | None], Video] = OrderedDict()
        self.cached_bytes = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> GroundingExample:
        sample = self.samples[index]
        try:
            video = self.video(sample)
            if self.check_durations and not durations_agree(sample.duration, video.duration):
                raise _duration_error(sample, video)
            shown = video if self.change is None else self.change(video, sample)
            task = find_task(sample.task)
            instruction = (self.settings.instructions or {}).get(task.name, task.instruction)
            return GroundingExample(sample, self.builder.build(task.subject(sample), shown, instruction))
        except (VideoError, PromptError) as error:
            return GroundingExample(sample, None, f"{type(error).__name__}: {error}")

    def video(self, sample: Sample) -> Video:
        """The sample's frames, from memory where this worker had them not long ago, else from disk, else decoded."""
        key = (sample.video, sample.clip)
        if key in self.videos:
            self.videos.move_to_end(key)
            return self.videos[key]
        video = self._load(sample)
        self.videos[key] = video
        self.cached_bytes += video.frames.nbytes
        while self.cached_bytes > CACHED_BYTES:
            _, oldest = self.videos.popitem(last=False)
            self.cached_bytes -= oldest.frames.nbytes
        return video

    def _load(self, sample: Sample) -> Video:
        settings, geometry = self.settings.video, self.builder.geometry

        def decode() -> Video:
            return load_video(sample.video, clip=sample.clip, settings=settings, geometry=geometry)

        if self.frame_cache is None:
            return decode()
        return self.frame_cache.video(sample.video, sample.clip, settings, geometry, decode)


def _duration_error(sample: Sample, video: Video) -> VideoError:
    what = "the video" if sample.clip is None else f"the clip from {sample.clip[0]:g} to {sample.clip[1]:g} s"
    return VideoError(
        sample.video,
        f"the sample's duration is {sample.duration:g} s, {what} has {video.duration:.2f} s: is it the right file? "
        "(python -m taro.prepare.check FILE --videos --fix mends durations)",
    )
