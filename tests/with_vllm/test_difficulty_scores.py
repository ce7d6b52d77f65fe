"""taro.prepare.difficulty with vLLM."""

import json

from taro.prepare.difficulty import main


def score(model, synthetic, output, *flags):
    main([f"--model={model}", f"--input={synthetic}/train.jsonl", f"--output={output}.jsonl", "--max_tokens=12", *flags])
    rows = (output.with_suffix(".difficulty") / "answers.jsonl").read_text().splitlines()
    return [json.loads(row)["completions"] for row in rows]


def test_vllm_draws_several_answers_and_greedy_ones_are_the_native_ones(one_engine, asked_folder, synthetic, tmp_path):
    greedy = ("--samples=1", "--temperature=0")
    native = score(asked_folder, synthetic, tmp_path / "native", *greedy)
    assert score(asked_folder, synthetic, tmp_path / "vllm", *greedy, "--engine=vllm", "--batch_size=2") == native
    drawn = score(asked_folder, synthetic, tmp_path / "drawn", "--samples=3", "--engine=vllm")
    assert len(drawn) == 6 and all(len(set(own)) == 3 for own in drawn)
    assert (tmp_path / "drawn.jsonl").read_text().count('"ious"') == 6
