"""The rollouts of a run as they are on disk, with markup in all that they say."""

from taro.jsonl import write_lines

MARKUP = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">\u2028</script>'


def completion(start, end, said="a person"):
    return f"<think>From {start:.1f}s to {end:.1f}s, {said}</think><answer>{start:.2f}s to {end:.2f}s</answer>"


def record(id, start, rewards, constructed=False, query="event", said="a person"):
    return {
        "id": id,
        "query": query,
        "spans": [[3.0, 8.0]],
        "completion": completion(start, start + 5, said),
        "answer": [start, start + 5.0],
        "constructed": constructed,
        "finished": True,
        "iou": 0.5,
        "temporal_gap": None if constructed else 0.25,
        "rewards": rewards,
        "reward": rewards["format"] + 2 * rewards["iou"],
        "weight": rewards["format"] - 0.5,
    }


def write_run(folder):
    """Three steps of two prompts with two completions each; the first prompt is met in each step."""
    query = f"event {MARKUP}"
    for step in (1, 2, 3):
        rows = [
            record("always", 3.0 + step, {"format": 1.0, "iou": 0.1 * step}, query=query, said=f"word{step} {MARKUP}"),
            record("always", 9.0, {"format": 1.0, "iou": 0.0}, constructed=True, query=query),
            record(f"once{step}", 5.0, {"format": 0.0, "iou": 0.0}),
            record(f"once{step}", 6.0, {"format": 0.0, "iou": 0.0}),
        ]
        write_lines(rows, folder / "rollouts" / f"step_{step:06d}.jsonl")
    return folder
