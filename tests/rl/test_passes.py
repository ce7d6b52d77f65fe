import pytest
import torch
from plain_gradients import MEASURED, Watch, assert_close_gradients

import taro.rl.module
import taro.rl.passes

pytestmark = pytest.mark.slow  # as a whole file: real runs


def test_smaller_packs_change_no_number(fit, arguments, uneven, steps, monkeypatch):
    watch, passes = Watch(noise=0.1), []
    plan = taro.rl.passes.plan_even_packs
    monkeypatch.setattr("taro.rl.passes.plan_even_packs", lambda *given: passes.append(plan(*given)) or passes[-1])
    limits = ["--data.grounding.max_prompt_tokens=70", "--model.sampling.max_tokens=66"]
    extra = ["--trainer.max_steps=1", "--model.optimizer.clip_norm=1e9", "--model.temporal_reward.measured=all", *limits]
    fit([*arguments, *extra], watch, steps)
    fit([*arguments, *extra, "--model.pack_tokens=268"], watch, steps)
    assert passes == [[[0, 1]], [[0], [1]]]
    assert_close_gradients(watch.gradients[1], watch.gradients[0], tolerance=1e-5)
    together, alone = steps.metrics
    for name, value in together.items():
        if not name.startswith(MEASURED):
            assert alone[name] == pytest.approx(value, abs=1e-5), name
    assert together["grad_norm"] > 1e-3


@pytest.mark.parametrize(("pack_tokens", "threshold"), [(16384, "mean"), (1, "-9.0")])
def test_what_can_not_be_paid_is_not_computed(fit, arguments, answering, steps, monkeypatch, pack_tokens, threshold):
    """Rewards, weights and gradients have the same bits as with all gaps, in one pack and in packs of their own; the log
    covers the groups that were measured, and says how many were not."""
    scored, shuffled = [], taro.rl.module.shuffled_log_probs
    monkeypatch.setattr(
        "taro.rl.module.shuffled_log_probs", lambda *given: scored.append(len(given[1])) or shuffled(*given)
    )
    found = {}
    for measured in ("payable", "all"):
        watch = Watch()
        extra = ["--curriculum.warmup_epochs=0", "--trainer.max_steps=2", f"--model.temporal_reward.threshold={threshold}",
                 "--model.temporal_reward.tokens=response", f"--model.pack_tokens={pack_tokens}",
                 f"--model.temporal_reward.measured={measured}", "--model.optimizer.learning_rate=1e-3"]  # fmt: skip
        fit([*arguments, *extra], watch, steps, answering(lambda number: number == 1))
        found[measured] = watch
    one_pack = pack_tokens > 1
    assert scored == [1, 1, *((2, 2) if one_pack else (1, 1, 1, 1))]
    assert len(found["all"].gradients) == 2
    for cheap, whole in zip(found["payable"].gradients, found["all"].gradients, strict=True):
        assert cheap.keys() == whole.keys() and all(torch.equal(cheap[name], whole[name]) for name in whole)
    for cheap, whole in zip(steps.records[:2], steps.records[2:], strict=True):
        for name in ("rewards", "weight", "completion"):
            assert [record[name] for record in cheap] == [record[name] for record in whole]
        assert [record["temporal_gap"] is None for record in cheap] == [True] * 3 + [False] * 3
        assert all(record["temporal_gap"] is not None for record in whole)
        assert sum(record["rewards"]["temporal"] > 0 for record in cheap[3:]) in ((1, 2) if threshold == "mean" else (3,))
    for cheap, records in zip(steps.metrics[:2], steps.records[:2], strict=True):
        gaps = [record["temporal_gap"] for record in records[3:]]
        assert cheap["taro/temporal_gap"] == pytest.approx(sum(gaps) / 3) and cheap["taro/gap_skipped"] == 0.5
    assert steps.column("taro/gap_skipped") == [0.5, 0.5, 0.0, 0.0]
