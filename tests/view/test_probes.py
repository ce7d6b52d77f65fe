import json
import re
from dataclasses import replace

import pytest

from taro.evaluation.probe_table import read_probe_table
from taro.jsonl import CONFIG_NAME, ResumableFolder, read_config
from taro.view.evaluated import read_evaluation
from taro.view.probes import draw_probes, main, probe_sections
from taro.view.report import make_report_page
from taro.view.timeline import ViewError


@pytest.fixture
def probed(write_evaluation):
    """With shifted labels, and with gaps below 0."""
    folder = write_evaluation()
    probe = write_evaluation("base/shifted_labels", 0.3)
    config = read_config(probe) | {"probe": "shifted_labels", "label_shift": 5.0}
    (probe / CONFIG_NAME).write_text(json.dumps(config))
    rows = [{"id": f"s{k}", "gaps": {"think": -0.1 * k, "response": 0.2}} for k in range(30)]
    ResumableFolder(folder / "gap", {"radius": 1.5}, name="gap").append(rows)
    return folder


def test_the_table_is_printed_without_a_model(probed, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    table = main([str(probed), "--json", str(tmp_path / "table.json")])
    shown = capsys.readouterr().out
    assert "shifted_labels" in shown and "of the shift" in shown and "think" in shown and "best constant" not in shown
    assert (probed / "probes.png").stat().st_size > 10_000 and f"the figure is {probed}/probes.png" in shown
    assert json.loads((tmp_path / "table.json").read_text())["samples"] == table.samples == 30


def test_bars_and_whiskers_of_the_figure(probed):
    pytest.importorskip("matplotlib")
    table = read_probe_table(probed)
    top, below = draw_probes(table).axes
    assert [bar.get_width() for bar in top.patches] == pytest.approx([row.miou for row in table.probes])
    (whisker,) = [line for container in top.containers if hasattr(container, "has_xerr") for line in container[2]]
    low, high = table.probes[1].lost.interval
    ends = [point[0] for point in whisker.get_segments()[0]]
    assert ends == pytest.approx([table.probes[0].miou - high, table.probes[0].miou - low])
    assert [label.get_text() for label in below.get_yticklabels()] == ["think", "response"]
    assert "of the shift" in top.texts[0].get_text()
    only = replace(table, gaps=())
    assert len(draw_probes(only).axes) == 1


def test_the_report_has_them(probed, write_evaluation, markup):
    page, _ = make_report_page([read_evaluation(probed)], strips=0)
    assert "Does it use time? base" in page and '<th scope="row">shifted_labels</th>' in page and "of the shift" in page
    assert "Answers to changed videos" in page and "Temporal gap, nats per token" in page and markup not in page
    assert not re.search(r'height="-', page)
    assert probe_sections(write_evaluation("other"), False, "other") == []


def test_a_folder_without_probes(write_evaluation):
    with pytest.raises(ViewError, match=r"holds no probes; eval\.py --probe A,B"):
        main([str(write_evaluation())])
