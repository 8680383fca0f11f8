"""The formulas once more, in numpy and float64, as loops. No code is shared with the package.

Letters: B batch, T queries, S keys, H heads, D width, d width of one head, F inner width, V vocabulary.
Weights come as dicts of arrays by the names that `weights.by_name` gives, or by Hugging Face names for `bert_*`.
"""

import math

import numpy as np


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def gelu(x):
    """x Phi(x), eq. 1 of Hendrycks & Gimpel 2016, with the exact error function."""
    out = np.empty(np.shape(x))
    for place in np.ndindex(*out.shape):
        out[place] = x[place] * (1 + math.erf(x[place] / math.sqrt(2))) / 2
    return out


def relu(x):
    return np.maximum(x, 0)


def layer_norm(x, gamma, beta, epsilon=1e-12):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the last axis, Ba et al. 2016, eq. 3 and 4."""
    out = np.empty(x.shape)
    for place in np.ndindex(*x.shape[:-1]):
        row = x[place]
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        out[place] = (row - mean) / math.sqrt(variance + epsilon) * gamma + beta
    return out


def dense(x, kernel, bias):
    """Row by row x W + b, W of shape (in, out)."""
    out = np.empty((*x.shape[:-1], kernel.shape[1]))
    for place in np.ndindex(*x.shape[:-1]):
        for column in range(kernel.shape[1]):
            out[place][column] = sum(x[place] * kernel[:, column]) + bias[column]
    return out


def attention_weights(q, k, mask=None):
    """q (B, H, T, d), k (B, H, S, d), mask None or bool (B, 1 or H, T, S) -> (B, H, T, S)."""
    out = np.zeros((*q.shape[:3], k.shape[2]))
    for b, h, t in np.ndindex(*q.shape[:3]):
        allowed = np.arange(k.shape[2])
        if mask is not None:
            allowed = np.flatnonzero(mask[b, h % mask.shape[1], t])
        if allowed.size:
            scores = np.array([q[b, h, t] @ k[b, h, s] for s in allowed]) / math.sqrt(q.shape[-1])
            out[b, h, t, allowed] = softmax(scores)
    return out


def split_heads(x, num_heads):
    """Head h takes columns h d to (h + 1) d: (B, T, D) -> (B, H, T, d)."""
    width = x.shape[-1] // num_heads
    return np.stack([x[..., h * width : (h + 1) * width] for h in range(num_heads)], axis=1)


def multi_head_attention(query, memory, weights, num_heads, mask=None):
    """Vaswani et al. 2017, section 3.2.2 -> (context, attention, query, key, value) as the layer gives them."""
    q, k, v = (
        split_heads(dense(x, weights[f"{name}/kernel"], weights[f"{name}/bias"]), num_heads)
        for x, name in ((query, "query"), (memory, "key"), (memory, "value"))
    )
    attention = attention_weights(q, k, mask)
    joined = np.zeros((*query.shape[:2], num_heads * v.shape[-1]))
    for b, h, t in np.ndindex(*attention.shape[:3]):
        for s in range(memory.shape[1]):
            joined[b, t, h * v.shape[-1] : (h + 1) * v.shape[-1]] += attention[b, h, t, s] * v[b, h, s]
    return dense(joined, weights["output/kernel"], weights["output/bias"]), attention, q, k, v


def feed_forward(x, weights, activation=gelu):
    inner = activation(dense(x, weights["inner/kernel"], weights["inner/bias"]))
    return dense(inner, weights["outer/kernel"], weights["outer/bias"])


def below(weights, prefix):
    """The weights whose name starts with `prefix/`, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in weights.items() if name.startswith(prefix + "/")}


def encoder_layer(x, weights, num_heads, mask=None, norm_first=False, activation=gelu, epsilon=1e-12):
    """Post-norm as Vaswani et al. 2017, section 3.1; pre-norm as Xiong et al. 2020 -> hidden and the attention."""

    def norm(values, name):
        return layer_norm(values, weights[f"{name}/gamma"], weights[f"{name}/beta"], epsilon)

    parts, inner = below(weights, "attention"), below(weights, "feed_forward")
    if norm_first:
        normed = norm(x, "attention_norm")
        attended = multi_head_attention(normed, normed, parts, num_heads, mask)
        x = x + attended[0]
        return x + feed_forward(norm(x, "feed_forward_norm"), inner, activation), *attended[1:]
    attended = multi_head_attention(x, x, parts, num_heads, mask)
    x = norm(x + attended[0], "attention_norm")
    return norm(x + feed_forward(x, inner, activation), "feed_forward_norm"), *attended[1:]


def sinusoidal_position(position, width):
    """One row of the table: Vaswani et al. 2017, section 3.5."""
    row = np.empty(width)
    for channel in range(width):
        angle = position / 10_000 ** (2 * (channel // 2) / width)
        row[channel] = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
    return row


def token_embedding(token_ids, weights):
    """Look up each id, through the map of a cut table and the factor of a factorised one where they exist."""
    width = weights["factor/kernel"].shape[1] if "factor/kernel" in weights else weights["table"].shape[1]
    out = np.empty((*token_ids.shape, width))
    for place in np.ndindex(*token_ids.shape):
        row = token_ids[place]
        if "piece_row" in weights:
            row = int(weights["piece_row"][row])
        embedded = weights["table"][row]
        out[place] = embedded @ weights["factor/kernel"] if "factor/kernel" in weights else embedded
    return out


def mean_pooling(hidden, real):
    out = np.zeros((hidden.shape[0], hidden.shape[2]))
    for b in range(hidden.shape[0]):
        rows = [hidden[b, t] for t in range(hidden.shape[1]) if real[b, t]]
        if rows:
            out[b] = sum(rows) / len(rows)
    return out


def encoded_text(token_ids, weights, num_layers, num_heads, norm_first=False):
    """BERT's trunk -> hidden states (B, T, D) after the final norm, and a dict of what its taps should hold."""
    real = token_ids != 0
    mask = np.broadcast_to(real[:, None, None, :], (token_ids.shape[0], 1, token_ids.shape[1], token_ids.shape[1]))
    x = token_embedding(token_ids, below(weights, "tokens"))
    x = x + weights["positions/table"][: token_ids.shape[1]] + weights["segments/table"][0]
    x = layer_norm(x, weights["embeddings_norm/gamma"], weights["embeddings_norm/beta"])
    taps = {"embeddings": x, "mask": real}
    for index in range(num_layers):
        outputs = encoder_layer(x, below(weights, f"encoder_{index}"), num_heads, mask, norm_first)
        for part, value in zip(("hidden", "attention", "query", "key", "value"), outputs, strict=True):
            taps[f"encoder/{index}/{part}"] = value
        x = outputs[0]
    if norm_first:
        x = layer_norm(x, weights["final_norm/gamma"], weights["final_norm/beta"])
    return x, taps


def text_classifier(token_ids, weights, num_layers, num_heads, pooling="mean", norm_first=False):
    """The whole classifier -> logits (B, C) and a dict of what its taps should hold."""
    x, taps = encoded_text(token_ids, weights, num_layers, num_heads, norm_first)
    if pooling == "mean":
        pooled = mean_pooling(x, taps["mask"])
    else:
        pooled = np.tanh(dense(x[:, 0], weights["pooling/dense/kernel"], weights["pooling/dense/bias"]))
    taps["pooled"] = pooled
    return dense(pooled, weights["logits/kernel"], weights["logits/bias"]), taps


def masked_lm(token_ids, weights, num_layers, num_heads, norm_first=False):
    """BERT with its head for hidden tokens -> logits (B, T, V) and a dict of what its taps should hold."""
    x, taps = encoded_text(token_ids, weights, num_layers, num_heads, norm_first)
    x = gelu(dense(x, weights["transform/kernel"], weights["transform/bias"]))
    x = layer_norm(x, weights["transform_norm/gamma"], weights["transform_norm/beta"])
    table = token_embedding(np.arange(len(weights["tokens/table"])), below(weights, "tokens"))
    return dense(x, table.T, weights["logits/bias"]), taps


def bert_hidden(token_ids, tensors, num_layers, num_heads):
    """BERT's last hidden states (T, D) of one text without padding, from tensors by their Hugging Face names.

    Devlin et al. 2019, section 3; a `weight` is (out, in), as the original keeps it.
    """

    def linear(x, name):
        return np.stack([tensors[f"{name}.weight"] @ row + tensors[f"{name}.bias"] for row in x])

    def norm(x, name):
        return layer_norm(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    words, places = tensors["embeddings.word_embeddings.weight"], tensors["embeddings.position_embeddings.weight"]
    segment = tensors["embeddings.token_type_embeddings.weight"][0]
    x = norm(np.stack([words[i] + places[t] + segment for t, i in enumerate(token_ids)]), "embeddings.LayerNorm")
    for index in range(num_layers):
        layer = f"encoder.layer.{index}"
        q, k, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        width = q.shape[1] // num_heads
        context = np.empty_like(q)
        for h in range(num_heads):
            columns = slice(h * width, (h + 1) * width)
            for t in range(len(x)):
                scores = np.array([q[t, columns] @ row[columns] for row in k]) / math.sqrt(width)
                context[t, columns] = softmax(scores) @ v[:, columns]
        x = norm(x + linear(context, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def bert_predictions(hidden, tensors):
    """Logits (T, V) of BERT's head for hidden tokens, through the token table."""
    head, rows = "cls.predictions", []
    for row in hidden:
        inner = gelu(tensors[f"{head}.transform.dense.weight"] @ row + tensors[f"{head}.transform.dense.bias"])
        gamma, beta = (tensors[f"{head}.transform.LayerNorm.{part}"] for part in ("weight", "bias"))
        normed = layer_norm(inner[None], gamma, beta)[0]
        rows.append(tensors["embeddings.word_embeddings.weight"] @ normed + tensors[f"{head}.bias"])
    return np.stack(rows)


def bert_pooled(hidden, tensors):
    """BERT's pooler: tanh(W h_0 + b) of the first token."""
    return np.tanh(tensors["pooler.dense.weight"] @ hidden[0] + tensors["pooler.dense.bias"])


def bert_shapes(num_layers, vocab_size, width, inner_dim, max_length):
    """Each tensor of a BERT by its Hugging Face name, with its shape."""
    shapes = {
        "embeddings.word_embeddings.weight": (vocab_size, width),
        "embeddings.position_embeddings.weight": (max_length, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    norms = ["embeddings.LayerNorm"]
    for index in range(num_layers):
        layer = f"encoder.layer.{index}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}.attention.{part}.weight"] = (width, width)
            shapes[f"{layer}.attention.{part}.bias"] = (width,)
        for part, rows, columns in (("intermediate", inner_dim, width), ("output", width, inner_dim)):
            shapes[f"{layer}.{part}.dense.weight"] = (rows, columns)
            shapes[f"{layer}.{part}.dense.bias"] = (rows,)
    return shapes | {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
