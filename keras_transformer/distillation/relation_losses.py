"""Losses on how the tokens of a text relate by their queries, keys and values: MiniLM and MiniLMv2."""

from collections.abc import Iterable

from keras import ops

from keras_transformer.checks import one_of, positive_integer
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.tap_pairs import TapPair, check_same_axes, checked_pairs, mean_over_pairs, paired
from keras_transformer.distillation.terms import Loss, needing
from keras_transformer.distillation.token_scores import divergence_over_keys, scaled_scores
from keras_transformer.distillation.weighing import shared_mask
from keras_transformer.layers.masks import Tensor

PARTS = ("query", "key", "value")


def relations(layers: TapPair, relation_heads: int, parts: Iterable[str] = PARTS) -> Loss:
    """mean_parts mean_a KL(R_t || R_s) for each token, R = softmax(X_a X_a^T / sqrt(d_a)): MiniLMv2, eq. 4 to 8.

    Wang et al. 2021, section 3: the vectors X of a part - queries, keys, values - are joined over the attention
    heads and split again into `relation_heads` pieces X_a of width d_a, so both models may have any number of
    heads and any width, without a projection. R says how token t relates to each real token. The mean over the
    parts is the paper's sum with weights of 1/3.

    Args:
        layers: (student layer, teacher layer) paths such as ("encoder/1", "encoder/5"), below which both models
            have taps named by `parts`: (B, H, T, d), or (B, T, D) where the heads are joined already. The paper
            takes the student's last layer, and of large teachers a layer before the last.
        relation_heads: A; divides both widths H d. The paper has 48 for a teacher of 12 heads.
        parts: some of "query" (Q-Q), "key" (K-K), "value" (V-V).

    Returns:
        A loss that gives (B, T) float32: one value a query token, the keys being real tokens; exactly 0 where both
        sides are equal.

    Raises:
        ValueError: for an unknown part or none, or a number out of range; the loss, if a tap is missing or
            `relation_heads` doesn't divide both widths, with the numbers that do.
    """
    (student_layer, teacher_layer) = checked_pairs([layers])[0]
    positive_integer("relation_heads", relation_heads)
    wanted = tuple(parts)
    for part in wanted:
        one_of("parts", part, PARTS)
    pairs = checked_pairs((f"{student_layer}/{part}", f"{teacher_layer}/{part}") for part in wanted)

    @needing(student_taps=[ours for ours, _ in pairs], teacher_taps=[theirs for _, theirs in pairs])
    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        mask = shared_mask(student, teacher)
        values = []
        for pair in pairs:
            ours, theirs = (_joined_heads(pair, part) for part in paired(pair, student.taps, teacher.taps))
            check_same_axes(pair, ours.shape, theirs.shape)
            _check_heads(pair, relation_heads, ours.shape[-1], theirs.shape[-1])
            ours, theirs = (_relation_scores(side, relation_heads, mask) for side in (ours, theirs))
            values.append(ops.mean(divergence_over_keys(theirs, ours, mask), axis=1))  # (B, T)
        return mean_over_pairs(pairs, values)

    return loss


def value_relations(layers: TapPair, relation_heads: int) -> Loss:
    """mean_a KL(VR_t || VR_s) for each token, VR = softmax(V_a V_a^T / sqrt(d_a)): MiniLM, Wang et al. 2020, eq. 4-5.

    The paper's second term, the last layer's V-V relation; its first is `attention_divergence`. The paper has as
    many relation heads as both models have attention heads.

    Args, returns, raises: as `relations`.
    """
    return relations(layers, relation_heads, parts=("value",))


def _joined_heads(pair: TapPair, vectors: Tensor) -> Tensor:
    """(B, H, T, d) -> (B, T, H d); (B, T, D) as it is. In float32."""
    rank = len(vectors.shape)
    if rank not in (3, 4):
        raise ValueError(
            f"A tap of the pair {pair} has shape {tuple(vectors.shape)}: relations are between the vectors of "
            "tokens, (B, H, T, d) or (B, T, D). Name a layer with such taps."
        )
    vectors = ops.cast(vectors, "float32")
    if rank == 3:
        return vectors
    batch, length = ops.shape(vectors)[0], ops.shape(vectors)[2]
    return ops.reshape(ops.swapaxes(vectors, 1, 2), (batch, length, vectors.shape[1] * vectors.shape[3]))


def _relation_scores(vectors: Tensor, relation_heads: int, mask: Tensor | None) -> Tensor:
    """(B, T, D) -> X_a X_a^T / sqrt(d_a) of each relation head a, (B, A, T, T)."""
    batch, length = ops.shape(vectors)[:2]
    split = ops.reshape(vectors, (batch, length, relation_heads, vectors.shape[-1] // relation_heads))
    split = ops.swapaxes(split, 1, 2)  # (B, A, T, d_a)
    return scaled_scores(split, split, mask)


def _check_heads(pair: TapPair, relation_heads: int, student_width: int, teacher_width: int) -> None:
    if student_width % relation_heads or teacher_width % relation_heads:
        fitting = [n for n in range(1, student_width + 1) if student_width % n == 0 == teacher_width % n]
        raise ValueError(
            f"relation_heads={relation_heads} can't cut the pair {pair} into equal heads: the student's width is "
            f"{student_width}, the teacher's {teacher_width}. Use a relation_heads out of {fitting}."
        )
