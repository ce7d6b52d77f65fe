import json
import shutil
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from taro.models import families
from taro.models.families import ModelError, load_config


@pytest.fixture
def hub(monkeypatch):
    """Sets what a request to the hub comes to; transformers is not to ask it by itself."""

    def answer(error):
        def never(*args, **kwargs):
            raise AssertionError("transformers was asked")

        def urlopen(request, timeout):
            assert 0 < timeout <= 10
            raise error

        monkeypatch.setattr(families, "urlopen", urlopen)
        monkeypatch.setattr(families.AutoConfig, "from_pretrained", never)
        monkeypatch.setattr(families, "HF_HUB_OFFLINE", False)

    return answer


@pytest.mark.parametrize("name", ["./x", "../x/y", "/nowhere/x", "~/x", "outputs/tiny/hf", "a b/c", "C:\\models"])
def test_a_path_to_nothing_is_no_hub_name(hub, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # in a checkout that has trained there is an outputs/tiny/hf
    hub(AssertionError("the hub was asked"))
    with pytest.raises(ModelError, match=r"there is no such folder\. Give a folder or a hub name of a Qwen2\.5-VL, Qwen3-VL"):
        load_config(name)


@pytest.mark.parametrize("error", [URLError(OSError(-2, "Name or service not known")), TimeoutError("timed out")])
@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-3B-Instruct", "asset/tiny-qwen2.5-vl"])
def test_a_hub_that_can_not_be_reached(hub, error, name):
    hub(error)
    with pytest.raises(ModelError, match=r"is no folder here, and no model of the hub .* can't be reached \(.+\)") as raised:
        load_config(name)
    assert "\n" not in str(raised.value)


def test_a_hub_that_must_not_be_asked(hub, monkeypatch):
    hub(AssertionError("the hub was asked"))
    monkeypatch.setattr(families, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids to ask the hub"):
        load_config("Qwen/Qwen2.5-VL-3B-Instruct")


def test_transformers_asks_a_hub_that_answers(hub):
    hub(HTTPError("https://hub", 405, "Method Not Allowed", {}, None))
    with pytest.raises(AssertionError, match="transformers was asked"):
        load_config("Qwen/Qwen2.5-VL-3B-Instruct")


def test_a_model_of_the_hub_that_is_on_this_disk(hub, monkeypatch):
    hub(AssertionError("the hub was asked"))
    monkeypatch.setattr(families, "try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    with pytest.raises(AssertionError, match="transformers was asked"):
        load_config("Qwen/Qwen2.5-VL-3B-Instruct")


def test_a_sliding_window_is_refused(tiny_folder, tmp_path):
    """Rollouts and scoring would leave it out."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads(Path(folder, "config.json").read_text())
    layers = config["text_config"]["num_hidden_layers"]
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0, "layer_types": None}
    Path(folder, "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"layers that see a sliding window alone, .* set use_sliding_window to false"):
        load_config(str(folder))
    config["text_config"] |= {"use_sliding_window": False, "layer_types": ["full_attention"] * layers}
    Path(folder, "config.json").write_text(json.dumps(config))
    load_config(str(folder))
