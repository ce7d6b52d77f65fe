import sys

import pytest

from taro.run import commands
from taro.run.demo import main, parse
from taro.view.timeline import ViewError


@pytest.fixture
def without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)


@pytest.mark.slow
def test_a_page_needs_no_gradio(without_gradio, video_file, tmp_path, capsys):
    page = tmp_path / "page.html"
    main(["--video", str(video_file), "--query", "the red square", "--output", str(page), "--max_tokens=8", "--shuffle=false"])
    assert "data-taro-timeline" in page.read_text()
    assert capsys.readouterr().out.endswith(f"the answer and its timeline are in {page}\n")


def test_a_server_says_what_it_needs(without_gradio):
    with pytest.raises(ViewError, match="the page needs Gradio: pip install"):
        main([])


def test_the_server_gets_the_model_and_the_settings(monkeypatch):
    started = []
    monkeypatch.setattr("taro.run.demo.check", lambda settings: None)
    monkeypatch.setattr("taro.run.demo.serve", lambda grounder, settings: started.append((grounder, settings)))
    main(["--port=7999", "--share", "--max_tokens=9"])
    ((grounder, settings),) = started
    assert (settings.port, settings.share, settings.host) == (7999, True, "127.0.0.1")
    assert grounder.model.sampling.max_tokens == 9


def test_nobody_but_this_machine_unless_asked():
    settings = parse([])
    assert settings.host == "127.0.0.1" and not settings.share


def test_help_comes_without_gradio(without_gradio, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo.py", "--help"])
    with pytest.raises(SystemExit) as leaving:
        commands.demo()
    assert leaving.value.code == 0 and "--max_upload_mb" in capsys.readouterr().out
