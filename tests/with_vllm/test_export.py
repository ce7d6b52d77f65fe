"""A model trained on two ranks with sharded weights, exported, in transformers and in vLLM."""

import subprocess
from pathlib import Path

import pytest
import torch
from prepared_python import python
from tolerances import LOG_PROBS
from transformers import AutoModelForImageTextToText, AutoProcessor

from taro.models.export import main as export
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.rollout import EngineModel, NativeEngine, RolloutPrompt, SamplingSettings, VLLMEngine

ROOT = Path(__file__).parents[2]


@pytest.mark.distributed
@pytest.mark.slow
def test_an_exported_sharded_checkpoint_answers_the_same(arguments, model_folder, prompts, tmp_path, rank_environment):
    extra = [
        f"--model.name_or_path={model_folder}",
        "--trainer.devices=2",
        "--trainer.accelerator=cpu",
        "--trainer.strategy=fsdp2",
        "--trainer.max_steps=2",
        "--trainer.limit_val_batches=0",
        "--model.optimizer.learning_rate=3e-3",
        "--model.optimizer.weight_decay=10",  # a random model earns nothing: this moves its weights
        "--model.sampling.max_tokens=64",
    ]
    command = [python(), str(ROOT / "train.py"), *arguments, *extra]
    done = subprocess.run(command, env=rank_environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    (checkpoint,) = (path for path in (tmp_path / "run" / "checkpoints").glob("step_*.ckpt"))
    folder = tmp_path / "exported"
    export([f"--checkpoint={checkpoint}", f"--output={folder}"])

    loaded = AutoModelForImageTextToText.from_pretrained(folder).eval()
    by_train = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "hf").state_dict()
    start = AutoModelForImageTextToText.from_pretrained(model_folder).state_dict()
    assert loaded.state_dict().keys() == by_train.keys() == start.keys()
    assert all(torch.equal(value, by_train[name]) for name, value in loaded.state_dict().items())
    assert any(not torch.allclose(value, start[name], atol=1e-3) for name, value in loaded.state_dict().items())

    processor, builder = AutoProcessor.from_pretrained(folder), PromptBuilder(str(folder), "{query}?", max_tokens=1024)
    assert processor.tokenizer.chat_template == builder.tokenizer.chat_template
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what?"}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert "<|video_pad|>" in text

    sampling = SamplingSettings(0.0, max_tokens=12)
    requests = [RolloutPrompt(prompt, ((),), (0,)) for prompt in prompts[:3]]
    policy = QwenVL.from_pretrained(str(folder))
    ours = NativeEngine(policy, builder.end_ids).generate(requests, sampling)
    if policy.family.recurrent:
        return  # vLLM refuses float32 there: see test_recurrent.py
    engine = VLLMEngine(EngineModel.of(builder, max_model_len=1024, dtype="float32", device="cpu"))
    try:
        theirs = engine.generate(requests, sampling)
    finally:
        engine.close()
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.completions[0].tolist() == other.completions[0].tolist()
        torch.testing.assert_close(mine.log_probs[0], other.log_probs[0], atol=LOG_PROBS, rtol=0)
