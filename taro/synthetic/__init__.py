"""A small Qwen2.5-VL, Qwen3-VL and Qwen3.5 that learn grounding on a CPU, made from scratch by a recipe of this package."""
