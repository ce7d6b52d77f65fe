"""What the doctor finds where vLLM is installed, with the engine that other tests share."""

from dataclasses import replace

import pytest

from taro.run.doctor import Case
from taro.run.doctor_checks import DIFFERS, OK
from taro.run.doctor_readings import check_transformers_processor, check_vllm


@pytest.fixture
def case(builder, prompts):
    prompt = prompts[0]
    return Case(builder, "the red square moves left", builder.build("the red square moves left", prompt.video), (5, 6, 7))


def test_all_readings_are_ours(engine, policy, case):
    found = [*check_transformers_processor(case), *check_vllm(engine, policy, case, "float32")]
    assert {one.status for one in found} == {OK}
    names = [(one.of, one.check) for one in found]
    read = ["prompt ids", "video blocks", "time labels"]
    assert [name for of, name in names if of == "transformers"] == [*read, "grid"]
    assert [name for of, name in names if of == "vLLM"] == [*read, "grid, pixels, positions", "log-probs", "placeholders"]


def test_labels_that_vllm_drops(engine, policy, case, monkeypatch):
    """As where it gets frames without their times, and has none to write."""
    render = engine.reader.render

    def without(prompt):
        rendered = render(prompt)
        text = case.builder.tokenizer.decode(rendered["prompt_token_ids"]).replace(" seconds>", ">")
        return rendered | {"prompt_token_ids": case.builder.tokenizer(text, add_special_tokens=False)["input_ids"]}

    monkeypatch.setattr(engine.reader, "render", without)
    found = {one.check: one for one in check_vllm(engine, policy, case, "float32")}
    if case.builder.family.labels_times:
        assert "lmms-eval#1404" in found["time labels"].remark
        assert found["prompt ids"].status == found["grid, pixels, positions"].status == DIFFERS
    else:
        assert {one.status for one in found.values()} == {OK}


def test_another_policy_is_not_the_engines(engine, changed_policy, case):
    found = {one.check: one.status for one in check_vllm(engine, changed_policy, case, "float32")}
    assert [name for name, status in found.items() if status != OK] == ["log-probs"]


def test_positions_that_are_not_vllms(engine, policy, case):
    prompt = case.prompt
    shifted = replace(prompt, position_ids=prompt.position_ids + (prompt.position_ids > 20))
    found = list(check_vllm(engine, policy, replace(case, prompt=shifted), "float32"))
    assert found[-1].status == DIFFERS and "positions: the first difference" in found[-1].remark


