"""The seconds of a step that benchmarks/cost_model.py makes of a config."""

import json
from pathlib import Path

import pytest

from taro.errors import TaroError

pytestmark = pytest.mark.slow  # as a whole file: each builds the whole command line

ROOT = Path(__file__).parents[1]
PLAN = ["--config=configs/qwen25_7b.yaml", "--shape=assets/shapes/qwen2.5-vl-7b"]


@pytest.fixture
def cost_model(import_benchmark, monkeypatch):
    monkeypatch.chdir(ROOT)
    return import_benchmark("cost_model")


def test_a_step_by_hand(cost_model):
    """2 prompts of 3,984 tokens, 16 completions of 300: 12,768 tokens in a pass of 6.5 billion weights."""
    result = cost_model.main([*PLAN, "--gpus=8"])
    seconds = result["seconds"]
    layers = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944 + 3584 + 2 * 512 + 2 * 3584)  # weights, biases, norms
    products = 2 * 12768 * layers + 2 * 4800 * 3584 * 152064
    scores = 2 * (3984**2 / 2 + 8 * 300 * (3984 + 150))
    attention = 4 * scores * 3584 * 28
    assert seconds["forward"] == pytest.approx(products / (0.63 * 989e12) + attention / (0.25 * 989e12))
    assert seconds["backward"] == pytest.approx(3 * products / (0.63 * 989e12) + attention * (2 / 0.18 + 1 / 0.25) / 989e12)
    weights = layers + 152064 * 3584 + 3584  # a row of the embeddings, all of the head
    read = 16 * 300 * (3984 + 200) * 4 * 4 * 128 * 28  # lengths from 0 to 600: a drawn token has 200 of its row before it
    assert seconds["decode"] == pytest.approx((600 * 2 * weights + read) / (0.87 * 3.35e12) + 600 * 0.0017)
    assert result["step"] == pytest.approx(sum(seconds.values())) and 9 < result["step"] < 13
    assert set(result["origin"].values()) == {"assumed"}


def test_embeddings_are_read_where_they_are_the_head(cost_model):
    from decoding import read_weights

    tied, untied = (cost_model.Shape.of(cost_model.load_config(f"assets/shapes/qwen2.5-vl-{size}")[0]) for size in ("3b", "7b"))
    assert read_weights(tied) == sum(tied.layers) + 151936 * 2048 + 2048
    assert read_weights(untied) == sum(untied.layers) + 152064 * 3584 + 3584 == untied.decoder - 152064 * 3584


@pytest.mark.parametrize(("mean", "longest"), [(300, 300), (300, 600), (300, 800), (30, 1000)])
def test_what_is_read_of_a_cache(cost_model, mean, longest):
    """Token by token, of as many completions as there are after it."""
    from decoding import read_tokens

    going_on = [(1 - (token + 0.5) / longest) ** (longest / mean - 1) for token in range(longest)]
    assert sum(going_on) == pytest.approx(mean, rel=1e-3)
    slow = sum(share * (100 + token + 0.5) for token, share in enumerate(going_on))
    assert read_tokens(100, mean, longest) == pytest.approx(slow, rel=1e-3)


def test_what_a_config_leaves_out_takes_no_time(cost_model):
    seconds = cost_model.main([*PLAN, "model.temporal_reward=null", "model.loss.kl_coefficient=0"])["seconds"]
    assert seconds["shuffled"] == seconds["reference"] == 0 < seconds["wait for slower ranks"]
    alone = cost_model.main([*PLAN, "--gpus=1", "trainer.strategy=auto"])["seconds"]
    assert alone["wait for slower ranks"] == alone["exchange groups"] == 0
    assert alone["tower"] == pytest.approx(8 * seconds["tower"])


def test_groups_that_can_not_be_paid_are_not_scored(cost_model):
    """One rank scores its share of 16 groups; of eight with two each, the most that any scores is waited for."""
    every, quarter = (cost_model.main([*LORA, f"--payable={share}"])["seconds"]["shuffled"] for share in (1, 0.25))
    assert quarter == pytest.approx(every / 4)
    every, half, measured = (
        cost_model.main([*PLAN, "--payable", *arguments])["seconds"]["shuffled"]
        for arguments in (["1"], ["0.5"], ["0.5", "model.temporal_reward.measured=all"])
    )
    none, one = 0.25**8, 0.75**8 - 0.25**8  # most groups that any rank scores
    assert half == pytest.approx(every * (one / 2 + 1 - one - none)) and measured == every


def test_ranks_that_exchange_groups_wait_less(cost_model):
    even, uneven = (cost_model.main([*PLAN, *extra])["seconds"] for extra in ([], ["model.rank_imbalance=.inf"]))
    assert even["wait for slower ranks"] + even["exchange groups"] < uneven["wait for slower ranks"]
    assert even["exchange groups"] > 0 == uneven["exchange groups"] and even["forward"] == uneven["forward"]


def test_ranks_with_all_weights_wait_too(cost_model):
    sharded, whole = (cost_model.main([*PLAN, f"trainer.strategy={name}"])["seconds"] for name in ("fsdp2", "ddp"))
    assert whole["optimizer"] == pytest.approx(8 * sharded["optimizer"])
    assert {**whole, "optimizer": 0} == {**sharded, "optimizer": 0} and min(whole["wait for slower ranks"], whole["decode"]) > 0


def test_frozen_weights_have_no_gradients(cost_model):
    whole, adapters = (
        cost_model.main([f"--config=configs/{name}.yaml", "--shape=assets/shapes/qwen2.5-vl-3b", "--gpus=1"])["seconds"]
        for name in ("qwen25_3b", "qwen25_3b_lora")
    )
    assert adapters["forward"] == whole["forward"] and 0.6 < adapters["backward"] / whole["backward"] < 0.8


def test_measured_rates_take_the_place_of_guesses(cost_model, tmp_path):
    (tmp_path / "gpu.json").write_text(json.dumps({"rates": {"tower": 0.15, "matmul": 0.63}}))
    result = cost_model.main([*PLAN, f"--measured={tmp_path}/gpu.json", f"--json={tmp_path}/cost.json"])
    assert result["origin"]["tower"] == "measured" and result["origin"]["forward"] == "partly"
    assert json.loads((tmp_path / "cost.json").read_text()) == result
    assert result["seconds"]["tower"] == pytest.approx(2 * cost_model.main(PLAN)["seconds"]["tower"])


def test_a_file_without_rates_leaves_guesses(cost_model, tmp_path, capsys):
    (tmp_path / "gpu.json").write_text(json.dumps({"rates": {}, "rates_are_of": "nothing"}))
    assert set(cost_model.main([*PLAN, f"--measured={tmp_path}/gpu.json"])["origin"].values()) == {"assumed"}
    shown = " ".join(capsys.readouterr().out.split())
    assert "has no rates: all that follows are guesses" in shown


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rates": {"speed": 1}}'])
def test_a_file_of_something_else(cost_model, tmp_path, content):
    (tmp_path / "gpu.json").write_text(content)
    with pytest.raises(TaroError, match=r"not a file of benchmarks/gpu\.py --json"):
        cost_model.main([*PLAN, f"--measured={tmp_path}/gpu.json"])


def test_prompts_that_can_not_be_shared(cost_model):
    with pytest.raises(TaroError, match=r"data\.prompts_per_step = 16 can't be shared by 6 GPUs: set a multiple"):
        cost_model.main([*PLAN, "--gpus=6"])


def test_ranks_that_share_an_engine(cost_model):
    """Two have 32 completions together. Each GPU reads half of the weights, and of two heads of keys what one has of four."""
    alone, shared = (cost_model.main([*PLAN, f"model.vllm.tensor_parallel_size={size}"])["seconds"] for size in (1, 2))
    weights = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944 + 3584 + 2 * 512 + 2 * 3584) + 152064 * 3584 + 3584
    read = 32 * 300 * (3984 + 200) * 4 * 2 * 128 * 28
    reduced = 2 * 28 * 0.00001
    assert shared["decode"] == pytest.approx((600 * weights + read) / (0.87 * 3.35e12) + 600 * (0.0017 + reduced))
    assert alone["render prompts"] == pytest.approx(0.3 * 1.5) and shared["render prompts"] == pytest.approx(0.3 * 2.5)
    assert {**shared, "decode": 0, "render prompts": 0} == {**alone, "decode": 0, "render prompts": 0}
    with pytest.raises(TaroError, match="tensor_parallel_size = 8: must divide 8 ranks and 28 heads"):
        cost_model.main([*PLAN, "model.vllm.tensor_parallel_size=8"])


def test_prompts_are_rendered_while_others_are_decoded(cost_model):
    before, meanwhile, shared, server = (
        cost_model.main(arguments)["seconds"]["render prompts"]
        for arguments in (
            [*PLAN, "model.vllm.render_meanwhile=false"],
            PLAN,
            [*PLAN, "model.vllm.render_meanwhile=false", "model.vllm.tensor_parallel_size=4"],
            SERVER,
        )
    )
    assert before == pytest.approx(2 * 0.3) and meanwhile == pytest.approx((0.3 + 0.6) / 2)
    assert shared == pytest.approx(8 * 0.3) and server == pytest.approx((0.3 + 0.6 + 0.9 + 1.2) / 4)


def test_an_engine_that_stays_awake(cost_model):
    tired, awake = (cost_model.main([*PLAN, f"model.vllm.sleep={value}"])["seconds"] for value in ("true", "false"))
    assert awake["sleep"] == 0 and awake["wake, weights"] == pytest.approx(tired["wake, weights"] - 0.6)


SERVER = [*PLAN, "--gpus=4", "--server_gpus=4", "model.engine=vllm_server"]


def test_a_server_works_while_ranks_train(cost_model):
    """Four GPUs that train on four prompts each, and four that have all 128 completions."""
    in_turns, ahead = (cost_model.main([*SERVER, f"model.rollouts_ahead={steps}"]) for steps in (0, 1))
    seconds = in_turns["seconds"]
    assert seconds["sleep"] == 0 and in_turns["together"] == 128
    weights = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944 + 3584 + 2 * 512 + 2 * 3584) + 152064 * 3584 + 3584
    read = 128 * 300 * (3984 + 200) * 4 * 128 * 28 + 600 * weights / 2
    assert seconds["decode"] == pytest.approx(read / (0.87 * 3.35e12) + 600 * (0.0017 + 2 * 28 * 0.00001))
    rollouts = seconds["render prompts"] + seconds["engine's tower, prefill"] + seconds["decode"]
    others = in_turns["step"] - rollouts - seconds["wake, weights"]
    assert ahead["step"] == pytest.approx(seconds["wake, weights"] + max(rollouts, others)) and others > 1 < rollouts
    assert ahead["utilization"] == pytest.approx(in_turns["utilization"] * in_turns["step"] / ahead["step"])
    on_four = cost_model.main([*PLAN, "--gpus=4"])
    assert in_turns["utilization"] == pytest.approx(on_four["utilization"] / 2 * on_four["step"] / in_turns["step"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*PLAN, "--server_gpus=3", "model.engine=vllm_server"], "--server_gpus must be given, and divide 28 heads"),
        ([*PLAN, "model.engine=vllm_server"], "--server_gpus must be given"),
        ([*PLAN, "--server_gpus=0", "model.engine=vllm_server"], "--server_gpus must be given"),
        ([*PLAN, "model.rollouts_ahead=1"], r"model\.rollouts_ahead are for model\.engine = vllm_server"),
    ],
)
def test_servers_that_can_not_be(cost_model, arguments, message):
    with pytest.raises(TaroError, match=message):
        cost_model.main(arguments)


LORA = ["--config=configs/qwen25_3b_lora.yaml", "--shape=assets/shapes/qwen2.5-vl-3b", "--gpus=1", "--longest=800"]


def test_what_the_cache_has_no_room_for_is_decoded_later(cost_model, capsys):
    """On 24 GiB 0.4 are vLLM's: 9.6, less 7.0 for 3,754,622,976 weights and 2 for itself: 17,675 tokens of 36,864 bytes."""
    small = cost_model.main([*LORA, "--hardware=rtx4090"])
    assert small["together"] == 17675 // (3984 // 8 + 300) == 22 and "doesn't fit" not in capsys.readouterr().out
    weights = 2774771712 + 151936 * 2048 + 2048
    read = 128 * (300 * 3984 + 800 * 300**2 / 1100) * 36864
    steps = 800 + 300 * (128 / 22 - 1)
    assert small["seconds"]["decode"] == pytest.approx((steps * 2 * weights + read) / (0.87 * 1e12) + steps * 0.0017)
    assert cost_model.main([*LORA, "--hardware=h200"])["together"] == 128
    assert cost_model.main([*LORA, "--hardware=h200", "model.vllm.max_num_seqs=32"])["together"] == 32


def test_what_does_not_fit_is_said(cost_model, capsys):
    result = cost_model.main([*PLAN, "--gpus=1", "trainer.strategy=auto"])
    assert result["gibibytes"]["update"] > 80
    assert f"It doesn't fit: update, {result['gibibytes']['update']:.1f} of 80 GiB" in capsys.readouterr().out
    with pytest.raises(TaroError, match=r"the engine's cache has -1\.8 GiB, and 8 completions of 300 tokens need 0\.2: raise"):
        cost_model.main([*LORA, "--hardware=rtx4090", "model.vllm.gpu_memory_utilization=0.3"])
    with pytest.raises(TaroError, match="engine = native: only vllm"):
        cost_model.main([*PLAN, "model.engine=native"])


def test_the_table_of_the_docs(cost_model):
    small = ["--config=configs/qwen25_3b.yaml", "--shape=assets/shapes/qwen2.5-vl-3b"]
    columns = [PLAN, small, [*LORA, "--hardware=h200"], [*LORA, "--hardware=rtx4090"]]
    steps = [cost_model.main(arguments)["step"] for arguments in columns]
    shown = Path("docs/performance.md").read_text().splitlines()
    assert f"| **step** | {' | '.join(f'**{seconds:.1f}**' for seconds in steps)} |" in shown


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--completion=700", "--completion 700, --longest 600: a mean above 0, and no more than the longest"),
        ("--payable=1.1", "--payable 1.1: from 0 to 1"),
    ],
)
def test_flags_that_can_not_be(cost_model, capsys, flag, message):
    with pytest.raises(SystemExit):
        cost_model.main([*PLAN, flag])
    assert message in capsys.readouterr().err
