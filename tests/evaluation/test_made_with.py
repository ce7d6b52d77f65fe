from taro.evaluation.made_with import describe_asked, model_version


def test_a_version_is_the_commit_or_stands_for_all_files():
    one, other = {"config.json": "a", "model.safetensors": "5 bytes"}, {"config.json": "a", "model.safetensors": "6 bytes"}
    names = [model_version(files) for files in (one, dict(reversed(one.items())), other)]
    assert names[0] == names[1] != names[2] and len(names[0]) == len("files 01234567")
    assert model_version({"commit": "0123456789abcdef"}) == "commit 0123456789ab"
    assert model_version({}) == model_version({"commit": "None"}) == ""
    assert describe_asked({"model": "m", "model_files": one}).startswith(f"made with m, {names[0]} (")
