"""taro.prepare.difficulty with vLLM."""

import json
from pathlib import Path

from taro.models.settings import GroundingSettings
from taro.prepare.difficulty import main
from taro.synthetic.architecture import TINY_PROMPT
from taro.video.load import VideoSettings


def score(model, synthetic, output, *flags):
    main([f"--model={model}", f"--input={synthetic}/train.jsonl", f"--output={output}.jsonl", "--max_tokens=12", *flags])
    rows = (output.with_suffix(".difficulty") / "answers.jsonl").read_text().splitlines()
    return [json.loads(row)["completions"] for row in rows]


def test_vllm_draws_several_answers_and_greedy_ones_are_the_native_ones(tiny_folder, synthetic, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(tiny_folder).iterdir():
        (folder / path.name).symlink_to(path)
    GroundingSettings(TINY_PROMPT, VideoSettings(fps=1.0, max_tokens=64), 1024).save(folder)
    greedy = ("--samples=1", "--temperature=0")
    native = score(folder, synthetic, tmp_path / "native", *greedy)
    assert score(folder, synthetic, tmp_path / "vllm", *greedy, "--engine=vllm", "--batch_size=2") == native
    drawn = score(folder, synthetic, tmp_path / "drawn", "--samples=3", "--engine=vllm")
    assert len(drawn) == 6 and all(len(set(own)) == 3 for own in drawn)
    assert (tmp_path / "drawn.jsonl").read_text().count('"ious"') == 6
