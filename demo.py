"""Ask a model when something happens in a video, in a browser:

    python demo.py                                    # the tiny model of assets/
    python demo.py --model Qwen/Qwen2.5-VL-7B-Instruct --engine vllm
    python demo.py --help
"""

from taro.run.commands import demo

if __name__ == "__main__":
    demo()
