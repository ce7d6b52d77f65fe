"""Does memory grow? Real training steps on the synthetic videos, with a model of random weights that is too small to learn:

    python benchmarks/memory.py --steps 500

prints the memory of the training process and of its data workers as steps go by. The workers' grows until they keep the frames
of all videos (256 MiB each at most).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import lightning as L

from taro.run.cli import parse
from taro.synthetic.architecture import save_random


class Memory(L.Callback):
    """MiB of this process and of its children, every so many steps."""

    def __init__(self, every: int) -> None:
        self.every, self.rows = every, []

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step % self.every == 0:
            children = Path("/proc/self/task").glob("*/children")
            pids = [pid for path in children for pid in path.read_text().split()]
            workers = sum(resident(pid) for pid in pids)
            self.rows.append((trainer.global_step, resident("self"), workers))
            print(f"step {trainer.global_step:>5}: training {self.rows[-1][1]:.0f} MiB, workers {workers:.0f} MiB", flush=True)


def resident(pid: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024 if "VmRSS:" in status else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--data", type=Path, default=Path("data/synthetic"), help="of `python -m taro.synthetic`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cli = parse(
            [
                "--config=configs/tiny.yaml",
                f"--model.name_or_path={save_random(Path(folder) / 'model', 'qwen2_5_vl')}",
                f"--output_dir={folder}",
                f"--data.train_file={arguments.data}/train.jsonl",
                f"--data.validation_file={arguments.data}/validation.jsonl",
                "--data.test_file=null",
                "--data.prompts_per_step=4",
                "--model.group_size=4",
                "--model.sampling.max_tokens=72",
                f"--trainer.max_steps={arguments.steps}",
                "--trainer.max_epochs=-1",
                "--trainer.limit_val_batches=0",
                "--data.workers=2",
            ]
        )
        memory = Memory(max(1, arguments.steps // 10))
        cli.trainer.callbacks = [c for c in cli.trainer.callbacks if type(c).__name__ == "CurriculumCallback"] + [memory]
        cli.trainer.fit(cli.model, cli.datamodule)
    first, last = memory.rows[len(memory.rows) // 2], memory.rows[-1]  # by then the workers keep the frames of all videos
    print(f"from step {first[0]} to {last[0]}: training {last[1] - first[1]:+.1f} MiB, workers {last[2] - first[2]:+.1f} MiB")


if __name__ == "__main__":
    main()
