"""How far apart two ways to compute the same numbers may be."""

LOG_PROBS = 5e-5
"""Nats, of a token's log-prob or entropy in float32 with the logits divided by at least 0.5. Two orders of summation (another
engine, pack, chunk or CPU) were seen to be up to 1.05e-5 apart on the tests' models, over 3,000 tokens. Least of what is wrong:
M-RoPE positions of the video's width off by one give 1.0e-3 (the text's 0.7, one video token's time 0.07); one weight tensor
with noise of 1 % of its mean gives 2.1e-4 (a key's bias; half of all tensors more than 1e-2)."""

WEIGHTS = 1e-4
"""Of a weight after a few steps of AdamW with a learning rate of at most 1e-2. It makes a full step of a gradient that is
nearly zero, so that here and there a rounding shows: 1.6e-5 was seen."""
