"""Two ranks with vLLM: each with an engine of its own, and both with one."""

import subprocess
from pathlib import Path

import pytest
from prepared_python import python
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taro.synthetic.architecture import build_config, build_model, build_tokenizer, write_preprocessor

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def even_folder(tmp_path_factory):
    """A model whose numbers of heads two ranks can share."""
    folder, tokenizer = tmp_path_factory.mktemp("even"), build_tokenizer()
    config = build_config("qwen2_5_vl", tokenizer)
    text = config.text_config
    text.hidden_size, text.num_attention_heads, text.num_key_value_heads = 128, 4, 2
    config.vision_config.out_hidden_size = 128
    build_model(config, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_preprocessor(folder, config)
    return folder


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2], ids=["an engine each", "one engine"])
def test_two_ranks_sample_from_the_weights_of_each_step(arguments, even_folder, tmp_path, size, rank_environment):
    extra = [
        "--model.engine=vllm",
        f"--model.name_or_path={even_folder}",
        f"--model.vllm.tensor_parallel_size={size}",
        "--model.optimizer.learning_rate=3e-3",
        "--model.optimizer.weight_decay=10",  # a random model earns nothing: this moves its weights
        "--trainer.devices=2",
        "--trainer.max_steps=3",
        "--trainer.limit_val_batches=0",
        "--curriculum.warmup_epochs=0",
    ]
    done = subprocess.run(
        [python(), str(ROOT / "train.py"), *arguments, *extra],
        env=rank_environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    differences = [event.value for event in events.Scalars("sampling/sampling_logp_difference/max")]
    assert len(differences) == 3 and max(differences) < 5e-4
