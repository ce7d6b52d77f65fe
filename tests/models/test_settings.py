import json
from dataclasses import asdict

from taro.models.settings import FILE_NAME, GroundingSettings


def test_settings_travel_with_a_model(tmp_path):
    settings = GroundingSettings("when: {query}", instructions={"dense": "Answer in JSON."}, evaluation_video=None)
    settings.save(tmp_path)
    assert GroundingSettings.load(tmp_path) == settings and GroundingSettings.load(tmp_path / "nowhere") is None
    assert hash(settings) == hash(GroundingSettings("when: {query}", evaluation_video=None))


def test_settings_of_a_model_that_knew_no_tasks(tmp_path):
    values = asdict(GroundingSettings())
    del values["instructions"]
    (tmp_path / FILE_NAME).write_text(json.dumps(values))
    assert GroundingSettings.load(tmp_path) == GroundingSettings()
