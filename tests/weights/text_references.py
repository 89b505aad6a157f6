"""CLIP's and T5's encoders of text in NumPy, on the arrays of a published file under the names that they have there."""

import math

import numpy as np


def dense(tensors, name, x):
    return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0.0)


def attend(q, k, v, heads, logits):
    """``logits`` [b, heads, n, n] are added to q·k; the heads lie side by side in the last axis."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (q, k, v))
    weights = np.exp(q @ k.swapaxes(2, 3) + logits)
    h = weights / weights.sum(-1, keepdims=True) @ v
    return h.swapaxes(1, 2).reshape(*h.shape[:1], h.shape[2], -1)


def clip(tensors, ids, mask, heads):
    """The normalised tokens, with the quick GELU."""
    n = ids.shape[1]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    hidden = ~np.tril(np.ones((n, n), bool)) | ~mask[:, None, None, :]
    x = tensors["embeddings.token_embedding.weight"][ids] + tensors["embeddings.position_embedding.weight"][:n]
    i = 0
    while f"encoder.layers.{i}.mlp.fc1.weight" in tensors:
        layer = f"encoder.layers.{i}"
        h = norm(f"{layer}.layer_norm1", x)
        q, k, v = (dense(tensors, f"{layer}.self_attn.{name}_proj", h) for name in "qkv")
        h = attend(q / math.sqrt(q.shape[-1] / heads), k, v, heads, np.where(hidden, -np.inf, 0.0))
        x = x + dense(tensors, f"{layer}.self_attn.out_proj", h)
        h = dense(tensors, f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x))
        x = x + dense(tensors, f"{layer}.mlp.fc2", h / (1 + np.exp(-1.702 * h)))
        i += 1
    return norm("final_layer_norm", x)


def t5(tensors, ids, mask, heads):
    """The normalised tokens of texts shorter than 8 tokens, between which every offset has a bucket of its own."""
    n = ids.shape[1]

    def norm(name, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * tensors[f"{name}.weight"]

    offset = np.arange(n)[None, :] - np.arange(n)[:, None]
    table = tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    logits = table[np.where(offset > 0, 16 + offset, -offset)].transpose(2, 0, 1)
    logits = np.where(mask[:, None, None, :], logits, -np.inf)
    x = tensors["shared.weight"][ids]
    i = 0
    while f"encoder.block.{i}.layer.0.layer_norm.weight" in tensors:
        attention, mlp = (f"encoder.block.{i}.layer.{j}" for j in range(2))
        h = norm(f"{attention}.layer_norm", x)
        q, k, v = (dense(tensors, f"{attention}.SelfAttention.{name}", h) for name in "qkv")
        x = x + dense(tensors, f"{attention}.SelfAttention.o", attend(q, k, v, heads, logits))
        h, name = norm(f"{mlp}.layer_norm", x), f"{mlp}.DenseReluDense"
        if f"{name}.wi.weight" in tensors:
            h = np.maximum(dense(tensors, f"{name}.wi", h), 0)
        else:
            z = dense(tensors, f"{name}.wi_0", h)
            gate = z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
            h = gate * dense(tensors, f"{name}.wi_1", h)
        x = x + dense(tensors, f"{name}.wo", h)
        i += 1
    return norm("encoder.final_layer_norm", x)
