import pytest

from taro.prepare.caption.__main__ import parse
from taro.prepare.caption.settings import find_problems


def problems(*flags):
    return list(find_problems(parse(["--output=out.jsonl", *flags])))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--input=nowhere.jsonl", "--video_root=nowhere", "--captions_key=k", "--shard=2/2", "--api_base=http://h/v1"],
            [
                "--input nowhere.jsonl: no such file",
                "--video_root nowhere: no such folder",
                "--shard 2/2: give i/n with 0 <= i < n, as in 0/8",
                "--shard: is of use with --model alone; leave it out",
                "--api_base: is of use with --model alone; leave it out",
            ],
        ),
        (
            ["--captions=nowhere", "--model=m", "--overlap=30", "--prompt=What?", "--output=out.json", "--device=cuda:x"],
            [
                "--output out.json: must end in .jsonl",
                "captions come from one of --model, --captions and --captions_key; got --model and --captions",
                "--captions nowhere: no such file or folder",
                "--device cuda:x: must be auto, cpu, cuda or cuda:N",
                "--overlap 30.0: must be less than --window 30.0",
                "--prompt: must contain {seconds}, which stands for the window's length; got 'What?'",
            ],
        ),
        (
            ["--output=./in.jsonl", "--api_key_variable=NO_SUCH_KEY"],
            [
                "--output in.jsonl: is an input or another output; choose another",
                "captions come from one of --model, --captions and --captions_key; got none of them",
                "--api_key_variable: names the key of an endpoint; give its --api_base, too",
                "--api_key_variable NO_SUCH_KEY: the environment has no such variable, or one with characters that no key has",
            ],
        ),
    ],
)
def test_all_problems_come_at_once(flags, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").touch()
    assert problems("--input=in.jsonl", *flags) == expected


def test_an_output_that_is_there_is_gone_on_with_by_a_model_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").touch()
    (tmp_path / "out.jsonl").touch()
    (tmp_path / "out.captions").mkdir()
    exists = "--output out.jsonl: exists already; choose another, or delete it"
    assert exists in problems("--input=in.jsonl", "--captions_key=k")
    assert exists not in problems("--input=in.jsonl", "--model=m", "--device=cpu")


@pytest.mark.parametrize("base", ["localhost:8000", "http://h:port/v1", "https://me:sk-secret@host/v1"])
def test_secrets_in_an_address_or_a_key_are_not_shown(monkeypatch, base):
    monkeypatch.setenv("BROKEN_KEY", "sk-secret\nX: y")
    _, address, key = problems("--model=m", "--input=i", f"--api_base={base}", "--api_key_variable=BROKEN_KEY")
    assert "without user, password" in address and "with characters that no key has" in key and "secret" not in address + key


def test_numbers_have_ranges(capsys):
    for flag in ("window=0", "overlap=-1", "max_tokens=0", "workers=-1", "endpoint.timeout=0", "endpoint.retries=-1"):
        with pytest.raises(SystemExit):
            parse(["--input=i", "--output=o", f"--{flag}"])
        name, _, value = flag.partition("=")
        assert capsys.readouterr().err.startswith(f"error: {name} = {value}: must be a")


def test_flags_may_have_dashes():
    settings = parse(["--input=a-b", "--output", "c-d", "--api-base=http://e-f/v1", "--video.max-frames=7"])
    assert (settings.input, settings.output, settings.api_base) == ("a-b", "c-d", "http://e-f/v1")
    assert settings.video.max_frames == 7
