"""taro.prepare.caption with vLLM."""

import json

from taro.prepare.caption.__main__ import main


def test_captioning_gets_the_native_answers(tiny_folder, synthetic, tmp_path):
    rows = {}
    for engine in ("native", "vllm"):
        main(
            [
                f"--model={tiny_folder}",
                f"--input={synthetic}/train.jsonl",
                f"--output={tmp_path}/{engine}.jsonl",
                f"--engine={engine}",
                "--window=8",
                "--overlap=2",
                "--video.fps=1",
                "--video.max_tokens=64",
                "--max_tokens=12",
                "--max_prompt_tokens=1024",
                "--workers=1",
            ]
        )
        rows[engine] = [json.loads(line) for line in (tmp_path / f"{engine}.captions" / "captions.jsonl").open()]
    assert rows["native"] == rows["vllm"] and len(rows["vllm"]) == 3
    assert len({answer for row in rows["vllm"] for answer in row["answers"]}) > 1
