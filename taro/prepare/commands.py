"""The commands of this room that take seconds to import: their help is answered from here."""

from taro.command_line import Command

CAPTION = Command(
    program="python -m taro.prepare.caption",
    about="""\
Dense captions for the videos of a samples file, from a model, or from files.

    python -m taro.prepare.caption --input F.jsonl --output G.jsonl --model Qwen/Qwen2.5-VL-7B-Instruct --engine vllm
    python -m taro.prepare.caption --input F.jsonl --output G.jsonl --model NAME --api_base https://host/v1
    python -m taro.prepare.caption --input F.jsonl --output G.jsonl --captions captions.json

--config FILE is a YAML file with any of the settings.""",
    parts={"taro.prepare.caption.settings:CaptionSettings": ""},
)
DIFFICULTY = Command(
    program="python -m taro.prepare.difficulty",
    about="""\
How hard samples are for a model, and which of them to train on.

    python -m taro.prepare.difficulty --model NAME --input F.jsonl --output G.jsonl --samples 8
    python -m taro.prepare.difficulty select --help

This page is about the first. --config FILE is a YAML file with any of the settings.""",
    parts={"taro.prepare.difficulty:DifficultySettings": ""},
)
