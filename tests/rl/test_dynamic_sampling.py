"""Prompts whose completions all earn the same make room for others."""

from types import SimpleNamespace

import pytest
from checkpoint_content import assert_equal, read_all

from taro.jsonl import read_rows
from taro.rl.dynamic_sampling import differs, draw_groups
from taro.run.records import RunRecords


def example(name, failed=False):
    return SimpleNamespace(name=name, prompt=None if failed else name)


def group_of(name, rewards):
    return SimpleNamespace(name=name, earned=({"a": rewards}, {"a": 2.0}))


def test_equal_rewards():
    assert differs(group_of("a", [0.0, 0.1])) and not differs(group_of("a", [0.1, 0.1]))


@pytest.mark.parametrize(
    ("rounds", "names", "failed", "again", "replaced"),
    [
        (0, ["a", "same", "same too"], ["gone"], 0, []),
        (1, ["a", "same 1", "b"], ["gone"], 2, ["same", "same too"]),
        (2, ["a", "same 1", "b"], ["gone", "gone 2"], 3, ["same", "same too"]),  # what has no prompt takes nobody's place
        (3, ["a", "c", "b"], ["gone", "gone 2"], 4, ["same", "same too", "same 1"]),
        (9, ["a", "c", "b"], ["gone", "gone 2"], 4, ["same", "same too", "same 1"]),
    ],
)
def test_drawn_until_they_differ(rounds, names, failed, again, replaced):
    batch = [example("a"), example("gone", failed=True), example("same"), example("same too")]
    others = {
        1: {2: example("same 1"), 3: example("b")},
        2: {2: example("gone 2", failed=True)},
        3: {2: example("c")},
    }
    asked, noted = [], []

    def generate(examples):
        asked.append([one.name for one in examples])
        return [group_of(one.name, [1.0, 1.0 if "same" in one.name else 0.0]) for one in examples]

    drawn = draw_groups(batch, generate, lambda places, number: [others[number][one] for one in places], rounds, noted.append)
    assert [group.name for group in drawn.groups] == names and drawn.again == again
    assert [group.name for group in noted] == replaced
    assert [one.name for one in drawn.failed] == failed
    assert asked == [["a", "same", "same too"], ["same 1", "b"], [], ["c"]][: min(rounds, 3) + 1]


def test_ranks_go_through_the_same_rounds(monkeypatch):
    """One whose groups all differ generates for nobody as long as another needs a round."""
    needed = iter([True, True, False])
    monkeypatch.setattr("taro.rl.dynamic_sampling.gather", lambda flag: [flag, next(needed)])
    asked = []

    def generate(examples):
        asked.append(len(examples))
        return [group_of(one.name, [1.0, 0.0]) for one in examples]

    draw_groups([example("a")], generate, lambda places, number: [], 5, [].append)
    assert asked == [1, 0, 0]


@pytest.mark.slow
def test_a_resumed_run_draws_the_same(fit, arguments, scripted, steps, tiny_builder, tmp_path):
    """To the bit. Half of the groups are all wrong."""
    endings = [f"</think><answer>{row}.0s to 9.0s</answer>" for row in range(3)]
    first = []

    class Knowing(scripted.engine):
        def generate(self, prompts, sampling):
            first[:] = [prompt.seeds[0] for prompt in prompts]
            return super().generate(prompts, sampling)

    def script(row, seed, number):
        return [*tiny_builder.encode("nothing" if first[number] % 2 else endings[row]), tiny_builder.eos_id]

    scripted(script, Knowing)
    extra = ["--model.temporal_reward=null", "--curriculum.warmup_epochs=0", "--model.dynamic_sampling=9"]
    extra += ["--model.optimizer.learning_rate=1e-3", "--trainer.limit_val_batches=0", "--trainer.max_epochs=1"]
    fit([*arguments, *extra], steps, RunRecords(tmp_path / "run"))
    replaced = [row for path in (tmp_path / "run" / "replaced").iterdir() for row in read_rows(path)]
    assert {(row["iou"], row["reward"]) for row in replaced} == {(0, 0)}
    assert "nothing" in {row["completion"] for row in replaced}
    assert len(replaced) == 3 * sum(steps.column("rollout/drawn_again"))
    fit([*arguments, *extra, "--name=other", "--trainer.max_steps=2"])
    fit([*arguments, *extra, "--name=other", "--ckpt_path=last"], steps)
    assert sum(steps.column("rollout/drawn_again")[:3]) > 0 and steps.column("frac_reward_zero_std")[:3] == [0.0] * 3
    assert steps.records[3] == steps.records[2] and [len(records) for records in steps.records] == [6] * 4
    weights = [read_all(tmp_path / name / "checkpoints" / "last.ckpt")["weights"] for name in ("run", "other")]
    assert_equal(*weights)
