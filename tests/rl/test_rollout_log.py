import json

import pytest

from taro.data.samples import Sample, save_samples
from taro.rl.rollout_log import RolloutLogError, find_samples, list_steps, read_groups


def test_groups_of_a_step(run_folder):
    steps = list_steps(run_folder)
    assert list(steps) == [1, 2, 3]
    first, second = read_groups(1, steps[1])
    assert (first.step, first.records[0].id, len(first.records), second.records[0].id) == (1, "always", 2, "once1")
    assert first.spread == pytest.approx(0.2) and second.spread == 0
    assert first.records[0].temporal_gap == 0.25 and first.records[1].constructed


def test_the_reward_is_the_weighted_sum_and_the_plain_one_where_a_run_did_not_write_it(run_folder):
    path = run_folder / "rollouts" / "step_000003.jsonl"
    row = json.loads(path.read_bytes().splitlines()[0])
    assert read_groups(3, [path])[0].records[0].reward == pytest.approx(1.6)
    del row["reward"]
    path.write_text(json.dumps(row) + "\n")
    assert read_groups(3, [path])[0].records[0].reward == pytest.approx(1.3)


def test_ranks_of_a_step_belong_together(run_folder):
    for rank in (0, 1):
        (run_folder / "rollouts" / f"step_000004_rank{rank}.jsonl").write_bytes(
            (run_folder / "rollouts" / "step_000001.jsonl").read_bytes()
        )
    assert [len(read_groups(4, list_steps(run_folder)[4]))] == [4]


def test_lines_that_are_no_rollouts_are_all_named_and_a_cut_one_is_left_out(run_folder):
    path = run_folder / "rollouts" / "step_000002.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + b'{"id": "cut", "que')
    assert len(read_groups(2, [path])) == 2
    wrong = json.loads(good.splitlines()[0]) | {"rewards": {"format": "much"}}
    path.write_bytes(good + b"no json\n[]\n" + json.dumps(wrong).encode() + b"\n")
    with pytest.raises(RolloutLogError) as caught:
        read_groups(2, [path])
    lines = str(caught.value).splitlines()
    assert [line.partition(".jsonl ")[2].partition(":")[0] for line in lines[1:]] == ["line 5", "line 6", "line 7"]
    assert 'rewards.format: got "much"' in lines[3] or "rewards" in lines[3]


def test_no_rollouts(tmp_path):
    with pytest.raises(RolloutLogError, match="no such folder; name that of a run"):
        list_steps(tmp_path / "nowhere")
    (tmp_path / "rollouts").mkdir()
    with pytest.raises(RolloutLogError, match=r"has no rollouts/step_\*.jsonl; name the folder of a run .* rollouts_every"):
        list_steps(tmp_path)


def test_samples_are_those_that_the_run_was_trained_on(run_folder, tmp_path):
    def refused(reason):
        with pytest.raises(RolloutLogError, match=reason):
            find_samples(run_folder)

    refused("doesn't say what the run was trained on")
    (run_folder / "config.yaml").write_bytes(b"data: {train_file: caf\xe9.jsonl}\n")
    refused("doesn't say what the run was trained on")
    (run_folder / "config.yaml").write_text(f"data: {{train_file: {tmp_path}/train.jsonl, video_root: null}}\n")
    refused("train.jsonl, which the run was trained on, is not there")
    save_samples([Sample("always", "v.mp4", "event", ((3.0, 8.0),), 20.0)], tmp_path / "train.jsonl")
    assert find_samples(run_folder)["always"].duration == 20.0
