"""What a step of distillation costs: ours, `keras.distillation`, and its parts: student step and teacher forward alone.

Command: python benchmarks/distill_step.py      (about 5 minutes on two cores; the machine must do nothing else)
         python benchmarks/distill_step.py --xla        the same, compiled by XLA
         python benchmarks/distill_step.py --quick      tiny models, writes nothing: does it still run?
Writes:  benchmarks/results/distill_step.md, or distill_step_xla.md

The student has half of its teacher's layers and the same width, as DistilBERT has: `keras.distillation` compares
features of equal width only. Its logits loss is given `KLDivergence()`, since its default one is no divergence. Every
way has its own copy of the same weights. Each is compiled first; then all take turns in rotating order, one step each
on the same batch; ratios are taken within a round, so that a slow moment of the machine hits both sides.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from scheduling import command_prefix

from keras_transformer import benchmark
from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Outputs,
    RecordedTeacher,
    cache_teacher,
    needing,
    soft_targets,
    true_labels,
)
from keras_transformer.layers import EncoderLayer, LearnedPositions, TokenEmbedding
from keras_transformer.layers.masks import Tensor

RESULTS = Path(__file__).parent / "results"
CLASSES, TEMPERATURE, FEATURES = 3, 2.0, 3
RECORDED, CACHED = "epoch with recorded logits", "epoch with cache_teacher"


class Size(NamedTuple):
    """Both models and the batch."""

    teacher_layers: int = 6
    student_layers: int = 3
    model_dim: int = 256
    vocab_size: int = 8000
    batch: int = 32
    length: int = 64
    rounds: int = 21
    epoch_batches: int = 12
    epochs: int = 7


QUICK = Size(6, 3, 16, 101, 4, 8, 3, 3, 3)
Way = Callable[[], object]


def main() -> None:
    """Measure every way and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xla", action="store_true", help="compile every way with jit_compile=True")
    parser.add_argument("--quick", action="store_true", help="tiny models; prints and writes nothing")
    options = parser.parse_args()
    size = QUICK if options.quick else Size()
    text = page(size, measured(size, options.xla), options.xla)
    if not options.quick:
        (RESULTS / f"distill_step{'_xla' if options.xla else ''}.md").write_text(text, encoding="utf-8")
    print(text)


def measured(size: Size, jit_compile: bool) -> str:
    """Both tables."""
    keras.utils.set_random_seed(0)
    teacher, student = encoder(size, size.teacher_layers), encoder(size, size.student_layers)
    random = np.random.default_rng(0)
    ids = random.integers(1, size.vocab_size, (size.epoch_batches * size.batch, size.length)).astype("int32")
    ids[:, -size.length // 4 :] *= random.integers(0, 2, (len(ids), 1)).astype("int32")  # half the rows are padded
    labels = random.integers(0, CLASSES, len(ids)).astype("int32")
    batch = (ids[: size.batch], labels[: size.batch])
    models = step_models(size, teacher, student, jit_compile)
    ways: dict[str, Way] = {name: step(model, batch) for name, model in models.items()}
    ways["teacher forward"] = forward(copy_of(size, teacher), batch[0], jit_compile)
    steps = interleaved(ways, size.rounds)
    with tempfile.TemporaryDirectory() as folder:
        epochs = interleaved(epoch_ways(size, teacher, student, ids, labels, folder, jit_compile), size.epochs)
    return tables(steps, epochs)


def encoder(size: Size, layers: int) -> keras.Model:
    """A text classifier whose hidden states are outputs of layers of their own, as `keras.distillation` needs them."""
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    real = ops.not_equal(token_ids, 0)
    x = TokenEmbedding(size.vocab_size, size.model_dim, name="tokens")(token_ids)
    x = LearnedPositions(size.length, name="positions")(x)
    for index in range(layers):
        layer = EncoderLayer(size.model_dim, 4, 4 * size.model_dim, 0.1, name=f"encoder_{index}")
        x = keras.layers.Identity(name=f"hidden_{index}")(layer(x, attention_mask=real).hidden)
    return keras.Model(token_ids, keras.layers.Dense(CLASSES, name="logits")(x[:, 0]))


def copy_of(size: Size, model: keras.Model) -> keras.Model:
    """A model of its own with the same weights."""
    copy = encoder(size, sum(layer.name.startswith("hidden_") for layer in model.layers))
    copy.set_weights(model.get_weights())
    return copy


def feature_pairs(size: Size) -> list[tuple[str, str]]:
    """Three pairs (student layer, teacher layer), evenly spread and ending at the top of both."""
    each = [[layers * (part + 1) // FEATURES - 1 for part in range(FEATURES)] for layers in (size[1], size[0])]
    return [(f"hidden_{low}", f"hidden_{high}") for low, high in zip(*each, strict=True)]


def hidden_distance(student_layer: str, teacher_layer: str) -> Callable[[Tensor, Outputs, Outputs], Tensor]:
    """Mean squared difference of two hidden states, one value a row; its mean is keras.losses.MeanSquaredError's."""

    @needing(student_taps=[student_layer], teacher_taps=[teacher_layer])
    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        difference = student.taps[student_layer] - teacher.taps[teacher_layer]
        return ops.mean(ops.square(difference), axis=(1, 2))

    return loss


def step_models(size: Size, teacher: keras.Model, student: keras.Model, jit_compile: bool) -> dict[str, keras.Model]:
    """Everything that has a training step, compiled alike."""
    pairs = feature_pairs(size)
    logits = [LossTerm("labels", 0.5, true_labels), LossTerm("soft", 0.5, soft_targets(TEMPERATURE))]
    hidden = [LossTerm(f"hidden_{index}", 0.5, hidden_distance(*pair)) for index, pair in enumerate(pairs)]
    their_logits = [keras.distillation.LogitsDistillation(TEMPERATURE, keras.losses.KLDivergence())]
    their_hidden = [
        keras.distillation.FeatureDistillation(keras.losses.MeanSquaredError(), high, low) for low, high in pairs
    ]

    def ours(terms: list[LossTerm]) -> keras.Model:
        return Distiller(copy_of(size, student), copy_of(size, teacher), terms)

    def theirs(losses: list[keras.distillation.DistillationLoss]) -> keras.Model:
        return keras.distillation.Distiller(copy_of(size, teacher), copy_of(size, student), losses)

    return {
        "student step": compiled(copy_of(size, student), jit_compile),
        "ours, logits": compiled(ours(logits), jit_compile),
        "keras.distillation, logits": compiled(theirs(their_logits), jit_compile),
        "ours, logits and three features": compiled(ours(logits + hidden), jit_compile),
        "keras.distillation, logits and three features": compiled(theirs(their_logits + their_hidden), jit_compile),
    }


def compiled(model: keras.Model, jit_compile: bool) -> keras.Model:
    """AdamW for all; the terms of our Distiller are its loss."""
    own = isinstance(model, Distiller)
    loss = {} if own else {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model.compile(keras.optimizers.AdamW(1e-4), jit_compile=jit_compile, **loss)
    return model


def step(model: keras.Model, batch: tuple[np.ndarray, np.ndarray]) -> Way:
    """One step as `fit` makes it, batch already in memory."""
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    model.make_train_function()

    def run() -> float:
        return float(model.train_function(batches)["loss"])  # waits for the step

    run()
    return run


def forward(teacher: keras.Model, ids: np.ndarray, jit_compile: bool) -> Way:
    """The teacher's forward pass alone."""
    function = tf.function(lambda: teacher(ids, training=False), jit_compile=jit_compile)
    return lambda: function().numpy()


def epoch_ways(
    size: Size,
    teacher: keras.Model,
    student: keras.Model,
    ids: np.ndarray,
    labels: np.ndarray,
    folder: str,
    jit_compile: bool,
) -> dict[str, Way]:
    """A plain epoch of the student, and two that distil from recorded logits: from memory, and from a teacher cache."""
    terms = [LossTerm("labels", 0.5, true_labels), LossTerm("soft", 0.5, soft_targets(TEMPERATURE))]
    plain = compiled(copy_of(size, student), jit_compile)
    recorded = compiled(Distiller(copy_of(size, student), RecordedTeacher(), terms), jit_compile)
    logits = teacher.predict(ids, batch_size=size.batch, verbose=0)

    def batches(x: object) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((x, labels)).batch(size.batch).prefetch(1)

    def epoch(model: keras.Model, data: tf.data.Dataset) -> Way:
        return lambda: model.fit(data, shuffle=False, verbose=0)

    cache = cache_teacher(teacher, batches(ids), folder)
    cached = compiled(Distiller(copy_of(size, student), cache, terms), jit_compile)
    return {
        "student epoch": epoch(plain, batches(ids)),
        RECORDED: epoch(recorded, batches({"token_ids": ids, "teacher_logits": logits})),
        CACHED: epoch(cached, cache.attach(batches(ids))),
    }


def interleaved(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; the first round warms up and isn't counted."""
    names = list(ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            ways[name]()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def tables(steps: dict[str, list[float]], epochs: dict[str, list[float]]) -> str:
    """Times, and the ratios that the goals are about."""
    steps["student step + teacher forward"] = added(steps["student step"], steps["teacher forward"])
    rows = "\n".join(
        f"| {name} | {1000 * statistics.median(spent):.1f} | {1000 * min(spent):.1f} to {1000 * max(spent):.1f} |"
        for name, spent in {**steps, **epochs}.items()
    )
    ours, theirs, floor = "ours, ", "keras.distillation, ", steps["student step + teacher forward"]
    goals = [
        ("keras.distillation / ours, logits", "at least 1", steps[f"{theirs}logits"], steps[f"{ours}logits"]),
        (
            "keras.distillation / ours, three features",
            "at least 1.5",
            steps[f"{theirs}logits and three features"],
            steps[f"{ours}logits and three features"],
        ),
        ("ours, logits / (student step + teacher forward)", "at most 1.05", steps[f"{ours}logits"], floor),
        (
            "ours, three features / (student step + teacher forward)",
            "at most 1.05",
            steps[f"{ours}logits and three features"],
            floor,
        ),
        *(
            (f"{name} / student epoch", "at most 1.1", epochs[name], epochs["student epoch"])
            for name in (RECORDED, CACHED)
        ),
    ]
    ratios = "\n".join(f"| {name} | {goal} | {ratio(above, below)} |" for name, goal, above, below in goals)
    return (
        f"| way | ms, median | spread |\n|---|---:|---:|\n{rows}\n\n"
        f"| ratio | goal | median (quartiles) |\n|---|---|---:|\n{ratios}"
    )


def added(left: Sequence[float], right: Sequence[float]) -> list[float]:
    """Sums round by round."""
    return [a + b for a, b in zip(left, right, strict=True)]


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Median and quartiles of the ratios of each round."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(above, below, strict=True)], n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def page(size: Size, results: str, jit_compile: bool) -> str:
    """The Markdown page."""
    machine = ", ".join(f"{name} {value}" for name, value in benchmark.machine().items())
    about = (
        f"Teacher {size.teacher_layers} layers, student {size.student_layers}, both {size.model_dim} wide, 4 heads, "
        f"{size.vocab_size} word pieces, dropout 0.1; {size.batch} texts of {size.length} a step, AdamW, float32, "
        f"jit_compile={jit_compile}; {size.rounds} rounds, interleaved; an epoch has {size.epoch_batches} steps, "
        f"{size.epochs} rounds."
    )
    command = f"Command: `{command_prefix()}python benchmarks/distill_step.py{' --xla' if jit_compile else ''}`"
    return "\n\n".join(["# What a step of distillation costs", command, f"Machine: {machine}", about, results]) + "\n"


if __name__ == "__main__":
    main()
