import pytest
import torch

from taro.models.positions import mrope_positions

X, V = False, True  # text, video


def positions(flags, grids, interval):
    return mrope_positions(torch.tensor(flags), grids, interval).tolist()


@pytest.mark.parametrize(
    ("flags", "grids", "interval", "expected"),
    [
        pytest.param([X, X, X], [], 1.0, [[0, 1, 2]] * 3, id="text alone"),
        pytest.param(
            [X, X, V, V, V, V, V, V, V, V, X, X],
            [(2, 2, 2)],
            2.0,
            [
                [0, 1, 2, 2, 2, 2, 4, 4, 4, 4, 5, 6],
                [0, 1, 2, 2, 3, 3, 2, 2, 3, 3, 5, 6],
                [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 5, 6],
            ],
            id="time is the largest axis",
        ),
        pytest.param(
            [X, V, V, V, V, V, V, X],
            [(2, 1, 3)],
            1.0,
            [[0, 1, 1, 1, 2, 2, 2, 4], [0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 2, 3, 1, 2, 3, 4]],
            id="width is the largest axis",
        ),
        pytest.param(
            [V, V, V, V, X],
            [(1, 4, 1)],
            9.0,
            [[0, 0, 0, 0, 4], [0, 1, 2, 3, 4], [0, 0, 0, 0, 4]],
            id="video first, height is the largest axis",
        ),
        pytest.param(
            [X, V, V, V, V, V],
            [(5, 1, 1)],
            1.5,  # 0, 1.5, 3, 4.5, 6: rounded down after the product
            [[0, 1, 2, 4, 5, 7], [0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]],
            id="fractional interval, video last",
        ),
        pytest.param([V, V, V, X], [(3, 1, 1)], 0.4, [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]], id="slower than 1"),
        pytest.param(
            [X, X, V, V, X, X, X, V, V, X],
            [(1, 1, 2), (1, 1, 2)],
            1.0,
            [
                [0, 1, 2, 2, 4, 5, 6, 7, 7, 9],
                [0, 1, 2, 2, 4, 5, 6, 7, 7, 9],
                [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            ],
            id="two runs",
        ),
    ],
)
def test_by_hand(flags, grids, interval, expected):
    assert positions(flags, grids, interval) == expected


@pytest.mark.parametrize("grids", [[], [(1, 1, 3)], [(1, 1, 2), (1, 1, 1)], [(2, 1, 1), (1, 1, 1)]])
def test_runs_that_do_not_fit_the_grids_are_refused(grids):
    with pytest.raises(ValueError, match=r"runs of \[2\] video tokens"):
        positions([X, V, V, X], grids, 1.0)


@pytest.mark.parametrize(
    ("patches", "fps"), [((4, 2, 2), 2.0), ((7, 4, 6), 1.951), ((40, 2, 4), 0.7), ((11, 6, 2), 8.0), ((25, 2, 2), 1.3)]
)
def test_equal_to_transformers_up_to_its_issue_45381(policy, builder, patches, fps):
    """transformers lets the text after a Qwen2.5-VL video start within the video; all else is equal."""
    frames = patches[0] * 2
    layout = builder.family.layout(builder.config, patches, torch.arange(frames) / fps, fps)
    text = f"Before it.{layout.text}And after it."
    ids = torch.tensor(builder.tokenizer(text)["input_ids"])
    video_mask = ids == builder.video_token_id
    ours = mrope_positions(video_mask, layout.grids, layout.interval)
    arguments = {"second_per_grid_ts": [2 / fps]} if policy.family.model_type == "qwen2_5_vl" else {}
    theirs, _ = policy.model.model.get_rope_index(
        ids[None], video_mask.long()[None] * 2, video_grid_thw=torch.tensor([patches]), **arguments
    )
    end = int(video_mask.nonzero().max()) + 1
    assert torch.equal(ours[:, :end], theirs[:, 0, :end])
    after = int(ours[:, :end].max()) + 1
    assert torch.equal(ours[:, end:], torch.arange(after, after + len(ids) - end).expand(3, -1))
    if policy.family.labels_times:
        assert torch.equal(ours, theirs[:, 0])
