"""Perturbed videos, under the name that reward code outside this package imports: see `taro.video.perturbation`."""

from taro.video.perturbation import FrameShuffle, Shuffle, SpanShuffle, shuffle_elsewhere, shuffle_within

__all__ = ["FrameShuffle", "Shuffle", "SpanShuffle", "shuffle_elsewhere", "shuffle_within"]
