"""A narrower model with decoder layers that starts from what a wider one has learned."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer.compression.importance import most_important
from keras_transformer.compression.residual_stream import Moments, Stream, narrowed
from keras_transformer.layers import PositionalEncoding

SIZES = ("num_layers", "num_decoder_layers", "model_dim", "num_heads", "head_dim", "inner_dim", "max_length")
ALIKE = ("vocab_size", "activation", "epsilon", "positions", "tie_embeddings")
"""Arguments of which a student may have less, and those that it must share, where their class has them."""

Weights = dict[str, np.ndarray]
Inputs = np.ndarray | Mapping[str, np.ndarray]


class Norm(NamedTuple):
    """A LayerNorm's weights."""

    gamma: np.ndarray
    beta: np.ndarray

    def into(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias of a product that reads the norm's output, for input that is normed and no more."""
        return self.gamma[:, None] * kernel, bias + self.beta @ kernel


class Head(NamedTuple):
    """One head's shares of the projections, in float64."""

    query: np.ndarray  # (D, d)
    query_bias: np.ndarray  # (d,)
    key: np.ndarray  # (D, d)
    key_bias: np.ndarray  # (d,)
    value: np.ndarray  # (D, d)
    output: np.ndarray  # (d, D)


def inherit(student: keras.Model, teacher: keras.Model, batches: Iterable[Inputs]) -> None:
    """Set the weights of a `student`, a `Seq2Seq` or `CausalLM`, to those that come nearest to its teacher's.

    The residual stream of a pre-norm model may be turned as one likes, if all that reads or writes it is turned with
    it. Here it is turned so that its first channels hold the most of what flows there on real texts, and the other
    channels are left out: Ashkboos et al. 2024 (SliceGPT), section 3, with one turn for all layers. Sinusoids can't be
    turned, so of all such turns the one is taken that lays the teacher's nearest to the student's.

    Of the layers every n-th stays, beginning with the first; of the heads those with the largest ||W_V W_O||; of the
    feed-forward units those with the largest ||W_1|| ||W_2||. A head becomes narrower by the singular value
    decompositions of W_Q W_K^T and W_V W_O. LayerNorms are folded into what reads them.

    A student that leaves out nothing computes what its teacher does, but for this: with tied embeddings the teacher's
    last LayerNorm can't be folded, so its gammas, if they aren't all alike, and its betas are met only about.

    Args:
        student: its weights are set.
        teacher: isn't changed.
        batches: what the teacher takes, some thousand tokens of real texts in all.

    Raises:
        ValueError: if the two don't fit, for which see `hindrance`; or if there is no batch.
    """
    reason = hindrance(student, teacher)
    if reason is not None:
        raise ValueError(f"{student.name!r} can't start from the weights of {teacher.name!r}: {reason}.")
    known = {path: weight.numpy().astype("float64") for path, weight in _weights(teacher).items()}
    stream = _stream(student, teacher, known["tokens/table"], batches)
    found = _ends(student, teacher, known, stream)
    for kind in ("encoder", "decoder"):
        ours, theirs = (len(_layers(model, kind)) for model in (student, teacher))
        for layer in range(ours):
            parts = _layer(student, teacher, _below(known, f"{kind}_{layer * theirs // ours}/"), known, stream)
            found |= {f"{kind}_{layer}/{name}": value for name, value in parts.items()}
    for path, weight in _weights(student).items():
        weight.assign(found[path].astype("float32"))


def hindrance(student: keras.Model, teacher: keras.Model) -> str | None:
    """Why the one can't start from the weights of the other, as the end of a sentence; None if it can."""
    if type(student) is not type(teacher) or not hasattr(teacher, "stack"):
        return (
            f"{type(student).__name__} and {type(teacher).__name__} must be one class, and that a Seq2Seq or CausalLM"
        )
    ours, theirs = student.get_config(), teacher.get_config()
    for name in ALIKE:
        if ours.get(name) != theirs.get(name):
            return f"{name}={ours.get(name)} must be the teacher's, {theirs.get(name)}"
    for name in SIZES:
        if ours.get(name, 0) > theirs.get(name, 0):
            return f"{name}={ours[name]} must be at most the teacher's, {theirs[name]}"
    if ours["model_dim"] == 1:
        return "model_dim=1: without its mean such a stream has nothing left"
    for config in (ours, theirs):
        if not config["norm_first"]:
            return "norm_first=False: only a stream that no LayerNorm lies across can be turned"
        if config["embedding_dim"] is not None:
            return f"embedding_dim={config['embedding_dim']}: the token table must not be factorised"
        if config["ranks"]:
            return f"ranks of {len(config['ranks'])} dense products: kernels must be whole, see compression.fuse"
        if config["num_key_value_heads"] != config["num_heads"]:
            return f"num_key_value_heads={config['num_key_value_heads']}: each head must have keys of its own"
    if ours.get("positions") == "alibi" and ours["num_heads"] != theirs["num_heads"]:
        return f"num_heads={ours['num_heads']} must be the teacher's, {theirs['num_heads']}, with ALiBi's slopes"
    if ours.get("positions") == "rotary" and ours["head_dim"] != theirs["head_dim"]:
        return f"head_dim={ours['head_dim']} must be the teacher's, {theirs['head_dim']}, with rotary positions"
    return None


def _stream(student: keras.Model, teacher: keras.Model, table: np.ndarray, batches: Iterable[Inputs]) -> Stream:
    taps = {name: tensor for name, tensor in teacher.tap_tensors.items() if name.endswith(("embeddings", "hidden"))}
    probe = keras.Model(teacher.input, taps)
    moments, longest = Moments(teacher.model_dim), 0
    for batch in batches:
        ids = dict(batch) if isinstance(batch, Mapping) else {"token_ids": batch}
        if not all(getattr(one, "ndim", None) == 2 for one in ids.values()):
            raise ValueError(
                "a batch is an array of ids (B, T), or a dict of such. Leave labels out, and pass a list of them."
            )
        if not all(np.any(np.asarray(one)) for one in ids.values()):
            continue
        longest = max(longest, *(one.shape[1] for one in ids.values()))
        for name, values in probe(batch).items():
            of_source = name.startswith("encoder/") or name == "source_embeddings"
            read = ids["source_ids"] if of_source else ids.get("target_ids", ids.get("token_ids"))
            moments.add(name, ops.convert_to_numpy(ops.cast(values, "float32"))[np.asarray(read) != 0])
    if not longest:
        raise ValueError("batches has no real token: the teacher must be seen at work. Give some batches of texts.")
    sinusoids = longest if isinstance(teacher.stack.positions, PositionalEncoding) else None
    return narrowed(moments, table, student.model_dim, sinusoids)


def _ends(student: keras.Model, teacher: keras.Model, known: Weights, stream: Stream) -> Weights:
    """What stands before and after the layers."""
    scales = teacher.stack.tokens.scale / student.stack.tokens.scale
    found = {"tokens/table": scales * stream.write(known["tokens/table"])}
    if "positions/table" in known:
        found["positions/table"] = stream.write(known["positions/table"][: student.max_length])
    width, last = student.model_dim, _norm(known, "final_norm")
    if "encoder_norm/gamma" in known:
        found |= _plain("encoder_norm", width)
    if "logits/kernel" in known:
        kernel, bias = last.into(known["logits/kernel"], np.zeros(known["logits/kernel"].shape[1]))
        # What a LayerNorm gives sums to 0, so a part of the kernel that is the same for all channels reads the betas.
        found["logits/kernel"] = stream.read(kernel) + bias / width
        return found | {"final_norm/gamma": np.ones(width), "final_norm/beta": np.ones(width)}
    # (h g) B^T times the table's own factor: of the turned gammas only the diagonal can stay.
    turned = np.einsum("sd,d,sd->s", stream.basis, last.gamma, stream.basis) / (scales * stream.size)
    found["final_norm/gamma"] = stream.norm * turned / (1.0 - 1.0 / width)
    found["final_norm/beta"] = np.linalg.lstsq(found["tokens/table"], known["tokens/table"] @ last.beta, rcond=None)[0]
    return found


def _layer(student: keras.Model, teacher: keras.Model, known: Weights, model: Weights, stream: Stream) -> Weights:
    """An encoder or decoder layer; `known` has the teacher's layer, `model` all of it."""
    found: Weights = {}
    asks = {"attention": (known, "attention_norm"), "cross_attention": (model, "encoder_norm")}  # who normed the memory
    for part, (owner, memory) in asks.items():
        if f"{part}_norm/gamma" in known:
            norms = _norm(known, f"{part}_norm"), _norm(owner, memory)
            parts = _attention(student, teacher, _below(known, f"{part}/"), *norms, stream)
            found |= {f"{part}/{name}": value for name, value in parts.items()}
            found |= _plain(f"{part}_norm", student.model_dim)
    before = _norm(known, "feed_forward_norm")
    inner, bias = before.into(known["feed_forward/inner/kernel"], known["feed_forward/inner/bias"])
    inner, outer = stream.read(inner), stream.write(known["feed_forward/outer/kernel"])
    strength = np.linalg.norm(inner, axis=0) * np.linalg.norm(outer, axis=1)
    kept = most_important(strength, student.inner_dim)
    return found | {
        "feed_forward/inner/kernel": inner[:, kept],
        "feed_forward/inner/bias": bias[kept],
        "feed_forward/outer/kernel": outer[kept],
        "feed_forward/outer/bias": stream.write(known["feed_forward/outer/bias"]),
        **_plain("feed_forward_norm", student.model_dim),
    }


def _attention(
    student: keras.Model, teacher: keras.Model, known: Weights, before: Norm, memory: Norm, stream: Stream
) -> Weights:
    """An attention with fewer or narrower heads; `before` is the norm of what asks, `memory` of what is asked."""
    asked = {"query": before, "key": memory, "value": memory}
    kernels, biases = {}, {}
    for name, norm in asked.items():
        kernel, biases[name] = norm.into(known[f"{name}/kernel"], known[f"{name}/bias"])
        kernels[name] = stream.read(kernel)
    output = stream.write(known["output/kernel"])
    heads = []
    for head in range(teacher.num_heads):
        own = slice(head * teacher.head_dim, (head + 1) * teacher.head_dim)
        query, key, value = (kernels[name][:, own] for name in ("query", "key", "value"))
        heads.append(Head(query, biases["query"][own], key, biases["key"][own], value, output[own]))
    strength = np.array([np.linalg.norm(head.value @ head.output) for head in heads])
    kept = [heads[place] for place in most_important(strength, student.num_heads)]
    if student.head_dim < teacher.head_dim:
        kept = [_narrower(head, student.head_dim) for head in kept]
    found = {f"{name}/kernel": np.concatenate([getattr(head, name) for head in kept], axis=1) for name in asked}
    # The weights of attention sum to 1, so the values' bias adds the same at each token: it joins the output's.
    return found | {
        "query/bias": np.concatenate([head.query_bias for head in kept]),
        "key/bias": np.concatenate([head.key_bias for head in kept]),
        "value/bias": np.zeros(student.num_heads * student.head_dim),
        "output/kernel": np.concatenate([head.output for head in kept]),
        "output/bias": stream.write(known["output/bias"] + biases["value"] @ known["output/kernel"]),
    }


def _narrower(head: Head, width: int) -> Head:
    """The head of this width whose W_Q W_K^T and W_V W_O are nearest to this one's (Eckart and Young 1936).

    The bias of the keys adds the same to all scores of a query, so it changes nothing and goes.
    """
    scale = (width / head.query.shape[1]) ** 0.25  # of each side: scores are divided by the root of the width
    query, key = _halves(head.query @ head.key.T, width)
    value, output = _halves(head.value @ head.output, width)
    bias = np.linalg.lstsq(key.T, head.key @ head.query_bias, rcond=None)[0]  # so that bias key^T is as it was
    return Head(scale * query, scale * bias, scale * key.T, np.zeros(width), value, output)


def _halves(product: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, rank) and (rank, m), whose product is the nearest of that rank, and whose norms are alike."""
    left, values, right = np.linalg.svd(product, full_matrices=False)
    root = np.sqrt(values[:rank])
    missing = rank - len(root)  # a head wider than the stream has no use for the rest
    halves = left[:, :rank] * root, root[:, None] * right[:rank]
    return np.pad(halves[0], ((0, 0), (0, missing))), np.pad(halves[1], ((0, missing), (0, 0)))


def _norm(known: Weights, name: str) -> Norm:
    return Norm(known[f"{name}/gamma"], known[f"{name}/beta"])


def _plain(name: str, width: int) -> Weights:
    """A LayerNorm that only norms."""
    return {f"{name}/gamma": np.ones(width), f"{name}/beta": np.zeros(width)}


def _below(weights: Weights, prefix: str) -> Weights:
    return {path.removeprefix(prefix): value for path, value in weights.items() if path.startswith(prefix)}


def _layers(model: keras.Model, kind: str) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.name.removeprefix(f"{kind}_").isdigit()]


def _weights(model: keras.Model) -> dict[str, Any]:
    return {weight.path.removeprefix(f"{model.name}/"): weight for weight in model.weights}
