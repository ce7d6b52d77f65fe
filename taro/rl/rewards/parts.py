"""Rewards of one completion that methods have in common, by short name."""

from taro.rl.rewards.completion import Completion
from taro.rl.rewards.taro import format_reward, timestamp_iou_reward


def has_format(completion: Completion) -> float:
    """1.0 for one think block and then one answer block (`format`)."""
    return format_reward(completion.text)


def timestamp_iou(completion: Completion) -> float:
    """Time-R1's IoU with the nearest truth (`timestamp_iou`); 0 where there is none. Where more than one span may be asked for,
    there are no two ends that could be compared: the IoU as the task has it."""
    if not completion.kind.single:
        return completion.iou
    if completion.nearest is None:
        return 0.0
    return timestamp_iou_reward(completion.span, completion.nearest, completion.duration)


def iou(completion: Completion) -> float:
    """IoU with the nearest truth, or as the task has it (`iou`)."""
    return completion.iou


def answer(completion: Completion) -> float:
    """1.0 for the right choice (`answer`), 0.0 where the task has none. Raises ValueError for a sample without `answer`."""
    return completion.chose_rightly() if completion.kind.has_choices else 0.0


def taro(completion: Completion) -> dict[str, float]:
    """TaRO (arXiv 2606.09248) without its temporal part, which needs the model (`taro`; `model.temporal_reward`)."""
    return {"format": has_format(completion), "timestamp_iou": timestamp_iou(completion)}
