import re
from functools import cache
from pathlib import Path

import pytest

from taro.run.memory import GIB
from taro.run.memory_plan import main

pytestmark = pytest.mark.slow  # as a whole file: each builds the whole command line, and a large model without weights

SHAPES = {
    "qwen25_3b": "qwen2.5-vl-3b",
    "qwen25_3b_lora": "qwen2.5-vl-3b",
    "qwen25_7b": "qwen2.5-vl-7b",
    "qwen3_8b": "qwen3-vl-8b",
    "qwen35_9b": "qwen3.5-9b",
}


@cache
def plan(name, *arguments):
    return main([f"--config=configs/{name}.yaml", f"--shape=assets/shapes/{SHAPES[name]}", *arguments])


SIZES = {"qwen25_3b": 3.75, "qwen25_7b": 8.29, "qwen3_8b": 8.77, "qwen35_9b": 9.41}


@pytest.mark.parametrize(("name", "billions"), SIZES.items())
def test_the_real_models(name, billions):
    """Sizes as they are published; float32 weights over 8 GPUs; it fits."""
    result = plan(name, "--gpus=8")
    assert result["update"]["weights"] == pytest.approx(billions * 1e9 * 4 / 8 / GIB, rel=2e-3)
    assert result["update"]["optimizer (AdamW, two moments)"] < 2 * result["update"]["weights"]  # the tower is frozen
    assert all(sum(parts.values()) < 80 for parts in result.values())


def test_what_settings_change():
    eight, sixteen = plan("qwen25_7b", "--gpus=8"), plan("qwen25_7b", "--gpus=16")
    for name in ("weights", "optimizer (AdamW, two moments)", "reference"):
        assert sixteen["update"][name] == pytest.approx(eight["update"][name] / 2)
    assert sixteen["update"]["gradients"] == eight["update"]["gradients"]
    each = plan("qwen25_7b", "--gpus=8", "trainer.strategy=fsdp2_sync_each_pack")
    assert each["update"]["gradients"] == pytest.approx(eight["update"]["gradients"] / 8)
    assert plan("qwen25_7b", "--gpus=8", "trainer.precision=bf16") == eight  # another name of bf16-mixed
    long = plan("qwen25_7b", "--gpus=8", "model.pack_tokens=32768")
    assert long["update"]["activations"] == pytest.approx(eight["update"]["activations"] * 2)
    alone = plan("qwen25_7b", "--gpus=1")
    assert sum(alone["update"].values()) > 80
    awake = plan("qwen25_7b", "--gpus=8", "model.vllm.sleep=false")
    assert awake["update"]["vLLM"] == awake["rollouts"]["vLLM"] == eight["rollouts"]["vLLM"] == 32
    step = eight["optimizer step"]
    assert step["gradients"] == step["optimizer (AdamW, two moments)"] / 2
    assert eight["update"]["vLLM"] == 2 and plan("qwen25_7b", "--gpus=8", "stage=sft")["update"]["reference"] == 0
    lora = plan("qwen25_3b_lora", "--gpus=1")
    assert lora["update"]["reference"] == 0 and sum(lora["update"].values()) < 24


def test_the_native_engine_keeps_keys_and_values():
    """7B: 28 layers of 4 key heads of 128, in bfloat16. Two prompts on each of 8 GPUs, with 8 completions each."""
    native = plan("qwen25_7b", "--gpus=8", "model.engine=native")["rollouts"]
    token = 2 * 4 * 128 * 28 * 2
    assert native["keys and values"] == pytest.approx(2 * (7168 + 8 * 1024) * token / GIB)
    few = plan("qwen25_7b", "--gpus=1", "model.engine=native", "model.rollout_rows=24")["rollouts"]
    assert few["keys and values"] == pytest.approx(native["keys and values"] * 3 / 2)
    assert "keys and values" not in plan("qwen25_7b", "--gpus=8")["rollouts"]


def test_vllms_share_must_hold_its_weights(capsys):
    plan("qwen25_7b", "--gpu_gigabytes=40", "trainer.strategy=fsdp2_sync_each_pack")
    said = capsys.readouterr().out
    assert "model.vllm.gpu_memory_utilization = 0.4: vLLM's share of 40 GiB is 16.0, and it needs 15.4 for weights, " in said
    assert "0.9 for a request of 16384 tokens" in said  # of an evaluation, whose prompts may be longer
    for enough in ("model.vllm.gpu_memory_utilization=0.5", "model.vllm.tensor_parallel_size=2", "model.engine=vllm_server"):
        plan("qwen25_7b", "--gpu_gigabytes=40", enough)
        assert "vLLM's share" not in capsys.readouterr().out


def test_the_largest_pack_may_be_a_group(capsys):
    """Which is never divided: 7168 tokens of the prompt, and 16 times 1024."""
    small = plan("qwen25_7b", "model.pack_tokens=16384")["update"]["activations"]
    assert "The largest pack has model.pack_tokens = 16384 tokens; the largest group has 15360 (" in capsys.readouterr().out
    large = plan("qwen25_7b", "model.group_size=16")["update"]["activations"]
    assert large == pytest.approx(small * 23552 / 16384, rel=0.05)
    assert "The largest pack is the largest group, 23552 tokens (" in capsys.readouterr().out
    assert plan("qwen25_7b", "model.group_size=16", "model.pack_tokens=23552")["update"]["activations"] == large
    assert plan("qwen25_7b", "model.pack_tokens=1")["update"]["activations"] == pytest.approx(small * 15360 / 16384)


def test_the_numbers_of_the_docs(capsys):
    text = Path("docs/scaling.md").read_text()
    command, table = re.search(r"<!-- python -m taro.run.memory_plan (.*) -->\n((?:\|.*\n)+)", text).groups()
    main(command.split())
    assert capsys.readouterr().out == table
    rows = re.findall(r"^\| `(\w+)\.yaml` \| (\d+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for name, gpus, total in rows:
        assert sum(plan(name, f"--gpus={gpus}")["update"].values()) == pytest.approx(float(total), abs=0.051), name
    each = plan("qwen25_7b", "--gpus=8", "trainer.strategy=fsdp2_sync_each_pack")
    assert f"takes {sum(each['update'].values()):.1f} GiB in all" in text
    large = plan("qwen25_7b", "--gpus=8", "model.group_size=16")
    assert f"the update takes {sum(large['update'].values()):.1f} GiB" in text


@pytest.mark.parametrize("flag", ["--gpus=0", "--gpus=-2", "--gpu_gigabytes=0", "--gpu_gigabytes=nan"])
def test_a_plan_for_no_gpu_is_refused(flag, capsys):
    with pytest.raises(SystemExit):
        main(["--config=configs/qwen25_7b.yaml", flag])
    name, value = flag.split("=")
    said = capsys.readouterr().err
    assert name in said and value in said
