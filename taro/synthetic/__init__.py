"""A small Qwen2.5-VL and a small Qwen3-VL that learn grounding on a CPU, made from scratch by a recipe of this package."""
