"""Evaluate a model on a benchmark:

    python eval.py --dataset Synthetic --model outputs/tiny/hf
    python eval.py --dataset Charades --model Qwen/Qwen2.5-VL-7B-Instruct --annotations charades.jsonl --video_root videos
    python eval.py --help
"""

from taro.run.commands import evaluate

if __name__ == "__main__":
    evaluate()
