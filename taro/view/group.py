"""The timeline of one group while it is trained. G completions, C tokens of the longest."""

from __future__ import annotations

from torch import Tensor

from taro.rl.group import Group
from taro.rl.group_rewards import GroupRewards
from taro.view.timeline import Timeline, Track, token_gaps


def group_timeline(
    group: Group,
    rewards: GroupRewards,
    most: float,
    log_probs: Tensor | None = None,
    shuffled_log_probs: Tensor | None = None,
    strip: bytes | None = None,
) -> Timeline:
    """The completions of a group from the best to the worst.

    Args:
        group: with its texts.
        rewards: of the group.
        most: the largest reward that there can be: the colour of its bar.
        log_probs, shuffled_log_probs: (G, C) on the true and on the shuffled video, where they were computed.
        strip: of the video's frames.
    """
    total = rewards.total.tolist()
    tracks = []
    for place, row in enumerate(sorted(range(len(total)), key=lambda row: -total[row]), start=1):
        gaps = ()
        if log_probs is not None and shuffled_log_probs is not None:
            characters = group.token_spans[row]
            values = (values[row, : len(characters)].tolist() for values in (log_probs, shuffled_log_probs))
            gaps = token_gaps(characters, *values)
        note = f"reward {total[row]:.2f}"
        score = total[row] / most if most > 0 else 0.0
        tracks.append(Track(f"#{place}", rewards.spans[row], score, note, group.texts[row], gaps))
    return Timeline(group.example.sample.duration, tuple(group.example.sample.spans), tuple(tracks), strip)
