"""Train, from a config to a model folder:

    python train.py                                          # the tiny run, on a CPU
    python train.py --config configs/qwen25_7b.yaml --model.group_size 16
    python train.py --help
"""

from taro.run.commands import train

if __name__ == "__main__":
    train()
