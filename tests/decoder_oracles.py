"""The decoder's formulas once more, in numpy and float64, as loops. No code is shared with the package.

Letters as in `oracles`; G is the number of key and value heads. Weights by the names that `weights.by_name` gives.
"""

import math

import numpy as np
from oracles import (
    below,
    dense,
    encoder_layer,
    feed_forward,
    layer_norm,
    relu,
    sinusoidal_position,
    softmax,
    split_heads,
)


def gelu_tanh(x):
    """Hendrycks & Gimpel 2016, section 2: the approximation with tanh."""
    out = np.empty(np.shape(x))
    for place in np.ndindex(*out.shape):
        value = x[place]
        out[place] = value / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))
    return out


PARTS = ("hidden", "attention", "query", "key", "value", "cross_attention")
ACTIVATIONS = {"gelu_tanh": gelu_tanh, "relu": relu}


def rotary(x, starts, base=10_000):
    """Each pair of channels as a complex number, times e^(i m theta): Su et al. 2021, eq. 13. x (B, H, T, d)."""
    out = np.empty(x.shape)
    for b, h, t in np.ndindex(*x.shape[:3]):
        for pair in range(x.shape[3] // 2):
            angle = (starts[b] + t) / base ** (2 * pair / x.shape[3])
            turned = complex(x[b, h, t, 2 * pair], x[b, h, t, 2 * pair + 1]) * complex(math.cos(angle), math.sin(angle))
            out[b, h, t, 2 * pair : 2 * pair + 2] = turned.real, turned.imag
    return out


def alibi(num_heads, query, key):
    """Head 1 .. H: minus 2^(-8 h / H) for each step back (Press et al. 2022, section 3)."""
    return [-(query - key) / 2 ** (8 * head / num_heads) for head in range(1, num_heads + 1)]


def attention(query, memory, weights, num_heads, groups=None, mask=None, positions=None):
    """Grouped-query attention -> (context, attention, query, key, value); mask (B, T, S), positions of a decoder."""
    groups = groups or num_heads
    q = split_heads(dense(query, weights["query/kernel"], weights["query/bias"]), num_heads)
    k = split_heads(dense(memory, weights["key/kernel"], weights["key/bias"]), groups)
    v = split_heads(dense(memory, weights["value/kernel"], weights["value/bias"]), groups)
    if positions == "rotary":
        q, k = rotary(q, [0] * len(q)), rotary(k, [0] * len(k))
    found = np.zeros((*q.shape[:3], k.shape[2]))
    joined = np.zeros((*query.shape[:2], num_heads * v.shape[-1]))
    for b, h, t in np.ndindex(*q.shape[:3]):
        group = h // (num_heads // groups)
        allowed = [s for s in range(k.shape[2]) if mask is None or mask[b, t, s]]
        if not allowed:
            continue
        scores = [q[b, h, t] @ k[b, group, s] / math.sqrt(q.shape[-1]) for s in allowed]
        if positions == "alibi":
            scores = [score + alibi(num_heads, t, s)[h] for score, s in zip(scores, allowed, strict=True)]
        found[b, h, t, allowed] = softmax(np.array(scores))
        joined[b, t, h * v.shape[-1] : (h + 1) * v.shape[-1]] = sum(found[b, h, t, s] * v[b, group, s] for s in allowed)
    return dense(joined, weights["output/kernel"], weights["output/bias"]), found, q, k, v


def decoder_layer(
    x,
    weights,
    num_heads,
    *,
    memory=None,
    memory_mask=None,
    mask=None,
    groups=None,
    positions=None,
    norm_first=False,
    activation="gelu_tanh",
    epsilon=1e-5,
):
    """Vaswani et al. 2017, section 3.1; pre-norm as GPT-2 -> hidden, attention, q, k, v, cross-attention or None."""

    def residual(x, name, part):
        norm = [weights[f"{name}_norm/gamma"], weights[f"{name}_norm/beta"], epsilon]
        return x + part(layer_norm(x, *norm)) if norm_first else layer_norm(x + part(x), *norm)

    found, crossed = [], [None, None]

    def attend(x):
        found[:] = attention(x, x, below(weights, "attention"), num_heads, groups, mask, positions)
        return found[0]

    def cross(x):
        pairs = None if memory_mask is None else np.repeat(memory_mask[:, None], x.shape[1], axis=1)
        crossed[:] = attention(x, memory, below(weights, "cross_attention"), num_heads, groups, pairs)[:2]
        return crossed[0]

    x = residual(x, "attention", attend)
    if memory is not None:
        x = residual(x, "cross_attention", cross)
    inner = below(weights, "feed_forward")
    hidden = residual(x, "feed_forward", lambda x: feed_forward(x, inner, ACTIVATIONS[activation]))
    return hidden, *found[1:], crossed[1]


def causal(batch, length):
    """(B, T, T), True where s <= t."""
    mask = np.zeros((batch, length, length), bool)
    for b, t, s in np.ndindex(*mask.shape):
        mask[b, t, s] = s <= t
    return mask


def logits(hidden, weights):
    """Through the table (and its factor), or through a projection of its own."""
    if "logits/kernel" in weights:
        return hidden @ weights["logits/kernel"]
    out = np.empty((*hidden.shape[:2], len(weights["tokens/table"])))
    for b, t, token in np.ndindex(*out.shape):
        row = weights["tokens/table"][token]
        if "tokens/factor/kernel" in weights:
            row = row @ weights["tokens/factor/kernel"]
        out[b, t, token] = hidden[b, t] @ row
    return out


def embed(token_ids, weights, positions, scale=1.0):
    out = []
    for row in token_ids:
        vectors = [weights["tokens/table"][token] for token in row]
        if "tokens/factor/kernel" in weights:
            vectors = [vector @ weights["tokens/factor/kernel"] for vector in vectors]
        if positions == "learned":
            vectors = [vector + weights["positions/table"][place] for place, vector in enumerate(vectors)]
        if positions == "sinusoidal":
            vectors = [scale * v + sinusoidal_position(place, len(v)) for place, v in enumerate(vectors)]
        out.append(vectors)
    return np.array(out)


def decode(x, weights, num_layers, num_heads, **options):
    """The stack and its final norm -> hidden, and what the taps of its layers should hold."""
    taps, length = {}, x.shape[1]
    for index in range(num_layers):
        found = decoder_layer(x, below(weights, f"decoder_{index}"), num_heads, mask=causal(len(x), length), **options)
        for part, value in zip(PARTS, found, strict=True):
            if value is not None:
                taps[f"decoder/{index}/{part}"] = value
        x = found[0]
    if options.get("norm_first"):
        x = layer_norm(x, weights["final_norm/gamma"], weights["final_norm/beta"], 1e-5)
    return x, taps


def causal_lm(token_ids, weights, num_layers, num_heads, positions="learned", **options):
    x = embed(token_ids, weights, positions)
    hidden, taps = decode(x, weights, num_layers, num_heads, positions=positions, **options)
    return logits(hidden, weights), {"embeddings": x, "mask": token_ids != 0, **taps}


def seq2seq(source_ids, target_ids, weights, num_layers, num_heads, num_decoder_layers, groups, norm_first, activation):
    """Vaswani et al. 2017, figure 1 -> logits (B, T, V) and a dict of what the taps should hold."""
    width = weights["encoder_0/attention_norm/gamma"].size
    real = source_ids != 0
    mask = np.repeat(real[:, None, None, :], source_ids.shape[1], axis=2)
    x = embed(source_ids, weights, "sinusoidal", math.sqrt(width))
    taps = {"source_embeddings": x, "mask": target_ids != 0}
    for index in range(num_layers):
        layer = below(weights, f"encoder_{index}")
        found = encoder_layer(x, layer, num_heads, mask, norm_first, ACTIVATIONS[activation], 1e-5)
        taps |= {f"encoder/{index}/{part}": value for part, value in zip(PARTS[:-1], found, strict=True)}
        x = found[0]
    if norm_first:
        x = layer_norm(x, weights["encoder_norm/gamma"], weights["encoder_norm/beta"], 1e-5)
    y = embed(target_ids, weights, "sinusoidal", math.sqrt(width))
    side = {"memory": x, "memory_mask": real, "groups": groups, "norm_first": norm_first, "activation": activation}
    hidden, of_layers = decode(y, weights, num_decoder_layers, num_heads, **side)
    return logits(hidden, weights), {**taps, "embeddings": y, **of_layers}
