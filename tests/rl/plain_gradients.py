"""The gradient of a step the slow and obvious way: one completion at a time through transformers' whole model."""

import lightning as L
import torch

from taro.models.qwen_vl import QwenVL
from taro.prompts import has_format, parse_answer

PLAIN = ["--model.temporal_reward=null", "--model.optimizer.clip_norm=1e9"]
MEASURED = ("timing_s/", "memory/", "tokens_per_second")  # different in each run


class Watch(L.Callback):
    """Moves the policy away from the reference before the first step; keeps gradients and weights at each update."""

    def __init__(self, noise=0.0):
        self.noise, self.gradients, self.weights = noise, [], []

    def on_train_start(self, trainer, module):
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in module.trained_parameters():
                parameter += self.noise * torch.randn(parameter.shape, generator=generator) * parameter.std().nan_to_num(1.0)
        trainer.optimizers[0].register_step_pre_hook(lambda *_: self.keep(module))

    def keep(self, module):
        named = [(name, p) for name, p in module.policy.named_parameters() if p.requires_grad]
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        self.weights.append({name: p.detach().clone() for name, p in named})


def assert_close_gradients(found, expected, tolerance=2e-4):
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 1e-6
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) < tolerance * largest, name


def slow_advantages(examples, completions, builder):
    """Format and timestamp IoU rewards, relative to the group."""
    values = []
    for example, group in zip(examples, completions, strict=True):
        ((start, end),), duration = example.sample.spans, example.sample.duration
        rewards = []
        for completion in group:
            text = builder.decode(completion)
            reward, span = float(has_format(text)), parse_answer(text)
            if span is not None:
                overlap = max(0.0, min(span[1], end) - max(span[0], start))
                union = span[1] - span[0] + end - start - overlap
                near = (1 - abs(span[0] - start) / duration) * (1 - abs(span[1] - end) / duration)
                reward += overlap / union * near
            rewards.append(reward)
        rewards = torch.tensor(rewards)
        values.append((rewards - rewards.mean()) / (rewards.std() + 1e-6))
    return values


def slow_gradients(policy, reference, examples, completions, advantages, plain_log_probs, token_loss):
    """One completion at a time through transformers' whole model; the sum over tokens divided by their number."""
    tokens = sum(len(completion) for group in completions for completion in group)
    for example, group, own in zip(examples, completions, advantages, strict=True):
        for row, (completion, advantage) in enumerate(zip(group, own, strict=True)):
            log_probs = plain_log_probs(policy, example.prompt, completion)
            with torch.no_grad():
                difference = plain_log_probs(reference, example.prompt, completion) - log_probs.detach()
            # d/dx of exp(r - x) - (r - x) - 1 at the current x; 0 where that is above 10
            slope = torch.where(difference.exp() - difference - 1 > 10, 0.0, 1 - difference.exp())
            kl = (slope * log_probs).sum()
            loss = token_loss(log_probs, advantage, bool(example.prefixes[row]), (example.sample.id, row)) + 0.5 * kl
            (loss / tokens).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def policy_with(folder, weights):
    policy = QwenVL.from_pretrained(folder)
    policy.freeze_tower()
    policy.load_state_dict(weights, strict=False)
    return policy


def completions_of(batch, records, builder):
    """What the scripted engine gave, from the records."""
    texts = [record["completion"] for record in records]
    size = len(batch[0].prefixes)
    tokens = [[*builder.encode(text), builder.eos_id] for text in texts]
    return [tokens[i : i + size] for i in range(0, len(tokens), size)]
