"""One GRPO step by TRL's GRPOTrainer and by TaRO, in turns, on the same small model and as many tokens:

    make trl-env
    python benchmarks/trl_step.py

TRL takes images: it gets as many visual tokens as images as TaRO gets as video (an image costs the tower as much as two
frames of its size). TRL has no temporal-sensitivity reward: ours is off. Both sample C tokens for each of G completions, score
them under policy and reference, and update once. TRL's time includes its image processor, which is shown apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import torch
from step import Bench, summarise
from workload import SHAPES, Phases, build_config, build_policy, build_prompt

from taro.data.samples import Sample
from taro.synthetic.architecture import build_model, build_tokenizer, write_preprocessor

TRL_PYTHON = Path(__file__).parent.parent / ".venv-trl" / "bin" / "python"
PEER = Path(__file__).with_name("trl_peer.py")


def save_model(folder: Path) -> None:
    """The tiny model of `benchmarks/step.py` as a folder, with a tokenizer that fits it."""
    config, tokenizer = build_config(SHAPES["tiny"], "qwen2_5_vl"), build_tokenizer()
    for name, token in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
                        ("vision_end", "vision_end")):  # fmt: skip
        setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{token}|>"))
    config.text_config.eos_token_id = tokenizer.eos_token_id
    build_model(config, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_preprocessor(folder, config)


def trl_steps(folder: Path, arguments: argparse.Namespace, side: int) -> dict:
    """Seconds of each step and medians of the phases, from a process of TRL's own venv."""
    output = folder / "trl.json"
    settings = {
        "model": folder, "images": arguments.images, "prompt-tokens": arguments.prompt, "group": arguments.group,
        "completion": arguments.completion, "steps": arguments.steps, "threads": torch.get_num_threads(), "json": output,
    }  # fmt: skip
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [str(TRL_PYTHON), str(PEER), *options, "--image-size", str(side), str(side)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(output.read_text())


def build(arguments: argparse.Namespace) -> Bench:
    policy = build_policy("tiny", "qwen2_5_vl")
    frames = arguments.images * policy.geometry.temporal_patch_size
    prompt = build_prompt(policy, arguments.prompt, frames, merged=(arguments.side, arguments.side))
    sample = Sample(id="a", video="a.mp4", query="q", spans=((1.0, 2.0),), duration=frames / 2)
    return Bench(policy, policy.frozen_copy(), prompt, sample, arguments.group, arguments.completion, arguments.group,
                 checkpointing=False, sensitivity=False)  # fmt: skip


def our_steps(bench: Bench, steps: int) -> list[Phases]:
    """The first of steps + 1 warms up."""
    runs = []
    for _ in range(steps + 1):
        with Phases(bench.policy).watching(bench.policy.model, bench.reference.model) as phases:
            bench.our_step(phases)
        runs.append(phases)
    return runs[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", type=int, default=8, help="completions (G)")
    parser.add_argument("--prompt", type=int, default=1200, help="prompt tokens (P)")
    parser.add_argument("--completion", type=int, default=96, help="tokens of each completion (C)")
    parser.add_argument("--images", type=int, default=10, help="for TRL; two frames each for TaRO")
    parser.add_argument("--side", type=int, default=10, help="visual tokens along each side of an image")
    parser.add_argument("--steps", type=int, default=3, help="of each turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file, too")
    arguments = parser.parse_args()
    if not TRL_PYTHON.is_file():
        parser.error("TRL's venv is not there: run `make trl-env`")
    bench, turns, ours = build(arguments), [], []
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        for _ in range(arguments.turns):
            turns.append(trl_steps(Path(folder), arguments, arguments.side * bench.policy.geometry.factor))
            ours += our_steps(bench, arguments.steps)
    peer, own = turns[0], summarise(ours)
    if peer["prompt_tokens"] != len(bench.prompt.input_ids) or peer["visual_tokens"] != int(bench.prompt.video_mask.sum()):
        raise ValueError(f"the prompts differ: {peer['prompt_tokens']} tokens for TRL, {len(bench.prompt.input_ids)} for TaRO")
    trl = statistics.median(seconds for turn in turns for seconds in turn["seconds"])
    phases = {name: statistics.median(turn["phases"][name] for turn in turns) for name in peer["phases"]}
    print(f"P = {peer['prompt_tokens']} ({peer['visual_tokens']} visual), C = {arguments.completion}, G = {arguments.group}, "
          f"{torch.get_num_threads()} threads, versions {peer['versions']}")  # fmt: skip
    print("TRL:  " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items()))
    print("TaRO: " + ", ".join(f"{name} {values['seconds']:.2f} s" for name, values in own["phases"].items()))
    without = trl - phases["preprocess"]
    print(f"whole step: TRL {trl:.2f} s, TaRO {own['seconds']:.2f} s: {trl / own['seconds']:.2f}x "
          f"({without / own['seconds']:.2f}x without TRL's image processor)")  # fmt: skip
    if arguments.json is not None:
        result = {"trl": turns, "ours": own, "ratio": trl / own["seconds"], "ratio_without_processor": without / own["seconds"]}
        arguments.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
