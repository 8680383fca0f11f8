"""Losses on hidden states: the student's features, projected where widths differ, against the teacher's.

Each of them is a Keras layer, made by a function: `hidden_states(pairs)` and its kin. Its weights are one matrix
W_k for each pair whose widths differ, and none where they are equal; they are trained with the student and never
saved with it. The value is the mean over the pairs, where the papers take the sum: so the term's weight means the
same whatever the number of layers. For a paper's number multiply the weight by the number of pairs.
"""

from collections.abc import Callable, Iterable

import keras
from keras import ops

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.tap_pairs import (
    TapPair,
    check_same_axes,
    checked_pairs,
    mean_over_pairs,
    paired,
    refuse_padded_maps,
)
from keras_transformer.distillation.terms import Needs
from keras_transformer.distillation.uncounted import at_real_tokens
from keras_transformer.distillation.unit_vectors import direction_distance
from keras_transformer.distillation.weighing import shared_mask
from keras_transformer.layers.masks import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]
"""(student (..., D), teacher (..., D)), both float32 -> one value for each vector, (...), or a row, (B,)."""


class FeatureLoss(keras.layers.Layer):
    """mean_k distance(student tap_k W_k, teacher tap_k), in float32 whatever the models' policies.

    W_k is learned, without bias, and there only where the widths differ. Taps (B, T, D) give a value a token,
    (B, T); (B, D) a value a row, (B,); maps of more axes, such as (B, height, width, channels), their mean a row.
    Those are for models without a padding mask: the mean would take padding in.

    Args:
        pairs: (student tap, teacher tap) names.
        distance: what to compare them by.
        project: False = widths must be equal.
        select: what of a tap is compared; None = all of it.

    Raises:
        ValueError: for no pairs; when it is built, which the Distiller does at once where it knows the shapes, if
            a pair's taps are missing or differ in more than their width, or in their width without projection; when
            it is called, if the widths aren't those that it was built for, or taps have four axes or more where a
            side has a mask.
    """

    def __init__(
        self,
        pairs: Iterable[TapPair],
        distance: Distance,
        *,
        project: bool = True,
        select: Callable[[Tensor], Tensor] | None = None,
        name: str,
    ) -> None:
        super().__init__(name=name, dtype="float32")
        self.pairs = checked_pairs(pairs)
        self.needs = Needs(tuple(ours for ours, _ in self.pairs), tuple(theirs for _, theirs in self.pairs))
        self.distance, self.project, self.select = distance, project, select

    def build(self, student_shape: Outputs, teacher_shape: Outputs) -> None:
        """Make the projections, by the shapes of both sides' taps."""
        shapes = [paired(pair, student_shape.taps, teacher_shape.taps) for pair in self.pairs]
        self.projections = [
            self._projection(pair, tuple(ours), tuple(theirs))
            for pair, (ours, theirs) in zip(self.pairs, shapes, strict=True)
        ]
        self.widths = [(ours[-1], theirs[-1]) for ours, theirs in shapes]

    def call(self, labels: Tensor | None, student: Outputs, teacher: Outputs) -> Tensor:
        """Compare all pairs -> (B,) or (B, T) float32."""
        values = []
        mask = shared_mask(student, teacher)
        for pair, projection, widths in zip(self.pairs, self.projections, self.widths, strict=True):
            refuse_padded_maps(pair, student, teacher)
            taps = paired(pair, student.taps, teacher.taps)
            self._check_widths(pair, widths, tuple(tap.shape[-1] for tap in taps))
            ours, theirs = (self._vectors(tap, mask) for tap in taps)
            values.append(_per_row_or_token(self.distance(projection(ours), theirs)))
        return mean_over_pairs(self.pairs, values)

    def _vectors(self, tap: Tensor, mask: Tensor | None) -> Tensor:
        vectors = ops.cast(tap, "float32")
        if self.select is not None:
            return self.select(vectors)
        return at_real_tokens(vectors, mask) if len(vectors.shape) == 3 else vectors

    def _check_widths(self, pair: TapPair, built: tuple[int | None, ...], given: tuple[int | None, ...]) -> None:
        if any(a != b and None not in (a, b) for a, b in zip(built, given, strict=True)):
            raise ValueError(
                f"The pair {pair} has widths {given[0]} and {given[1]}, and this {self.name} was built for "
                f"{built[0]} and {built[1]}, by another pair of models: its projections fit no other. Give each "
                f"Distiller a loss of its own: call {self.name}(...) again."
            )

    def _projection(self, pair: TapPair, student_shape: tuple, teacher_shape: tuple) -> keras.layers.Layer:
        check_same_axes(pair, student_shape, teacher_shape)
        ours, theirs = student_shape[-1], teacher_shape[-1]
        if ours == theirs:
            return keras.layers.Identity(dtype="float32")
        if not self.project:
            raise ValueError(
                f"The pair {pair} has width {ours} on the student's side and {theirs} on the teacher's, and "
                f"{self.name} compares without a projection. Use hidden_cosine or hidden_states, which learn one, "
                f"or a student of width {theirs}."
            )
        projection = keras.layers.Dense(theirs, use_bias=False, dtype="float32")
        projection.build((None, ours))
        return projection


def hidden_states(pairs: Iterable[TapPair]) -> FeatureLoss:
    """mean_d (h_s W - h_t)_d^2 for each token: TinyBERT, Jiao et al. 2020, eq. 8, the mean over the pairs.

    Args:
        pairs: (student tap, teacher tap) names, of taps (B, T, D), (B, D), or feature maps with channels last.

    Returns:
        A loss with weights; see `FeatureLoss`. Exactly 0 where both sides are equal.
    """
    return FeatureLoss(pairs, _mean_squared_difference, name="hidden_states")


def hidden_cosine(pairs: Iterable[TapPair]) -> FeatureLoss:
    """1 - cos(h_s W, h_t) for each token: DistilBERT, Sanh et al. 2019, section 2, the mean over the pairs.

    Computed as half the squared distance of the unit vectors, the same number, which is exactly 0 where both
    sides are equal and keeps its digits near 0. The cosine with a zero vector counts as 1/2.

    Args: as `hidden_states`.
    """
    return FeatureLoss(pairs, _one_minus_cosine, name="hidden_cosine")


def patient_states(pairs: Iterable[TapPair]) -> FeatureLoss:
    """||h_s / ||h_s|| - h_t / ||h_t||||^2 of the first token: PKD, Sun et al. 2019, eq. 7, the mean over the pairs.

    One value a row, (B,). Without a projection, as in the paper: the widths of student and teacher must be equal.
    The paper pairs the student's layers but the last with every k-th ("skip") or the last ("last") of the teacher's.

    Args:
        pairs: names of taps (B, T, D) whose first token stands for the text ([CLS]).
    """
    return FeatureLoss(pairs, direction_distance, project=False, select=_first_token, name="patient_states")


def hint(student_tap: str, teacher_tap: str) -> FeatureLoss:
    """1/2 ||v_s W - u_t||^2: FitNets, Romero et al. 2015, eq. 3, with a linear regressor W where widths differ.

    Args:
        student_tap: the guided layer, (B, D), (B, T, D), or a feature map (B, ..., D), on which W is a 1 x 1
            convolution and the value the mean over places. Of tokens a value each.
        teacher_tap: the hint layer.
    """
    return FeatureLoss([(student_tap, teacher_tap)], _half_squared_distance, name="hint")


def embedding_states(student_tap: str = "embeddings", teacher_tap: str = "embeddings") -> FeatureLoss:
    """mean_d (e_s W - e_t)_d^2 for each token's embedding: TinyBERT, Jiao et al. 2020, eq. 9.

    Args:
        student_tap: what goes into the student's first layer, (B, T, D).
        teacher_tap: the same of the teacher.
    """
    return FeatureLoss([(student_tap, teacher_tap)], _mean_squared_difference, name="embedding_states")


def _mean_squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    return ops.mean(ops.square(student - teacher), axis=-1)


def _half_squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return ops.sum(ops.square(student - teacher), axis=-1) / 2


def _one_minus_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    return direction_distance(student, teacher) / 2


def _first_token(states: Tensor) -> Tensor:
    """(B, T, D) -> (B, D)."""
    if len(states.shape) != 3:
        raise ValueError(
            f"patient_states looks at the first token and got a tap of shape {tuple(states.shape)}. "
            "Name taps of shape (B, T, D), or use hidden_cosine."
        )
    return states[:, 0]


def _per_row_or_token(values: Tensor) -> Tensor:
    """(B,) and (B, T) as they are; (B, height, width, ...) -> (B,), the mean over places."""
    rank = len(values.shape)
    return values if rank <= 2 else ops.mean(values, axis=tuple(range(1, rank)))
