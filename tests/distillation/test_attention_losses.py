"""Losses on attention and on relations between tokens against float64 loops over texts, heads, queries and keys."""

import numpy as np
import pytest
from tapped import MASK, B, T, student_taps, teacher_taps, value_and_gradients

from keras_transformer.distillation import (
    Outputs,
    attention_divergence,
    attention_maps,
    attention_scores,
    relations,
    value_relations,
)

LAYERS = ("layer", "layer")


def same_heads():
    """A teacher with as many heads as the student, of another width."""
    student, teacher = student_taps(), teacher_taps()
    for part in ("query", "key", "value"):
        teacher[f"layer/{part}"] = teacher[f"layer/{part}"][:, :2]
    teacher["attention"] = teacher["attention"][:, :2]
    return student, teacher


def unlike_heads():
    return student_taps(), teacher_taps()


def numpy_scores(query, key):
    """q k / sqrt(d), (H, T, d) -> (H, T, T), of one text, in float64."""
    out = np.zeros((*query.shape[:2], key.shape[1]))
    for h, t, s in np.ndindex(*out.shape):
        out[h, t, s] = sum(a * b for a, b in zip(query[h, t].astype("float64"), key[h, s], strict=True))
    return out / np.sqrt(query.shape[-1])


def numpy_softmax(row):
    powers = np.exp(row - max(row))
    return powers / sum(powers)


def numpy_kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def mean_of_heads_if_unlike(ours, theirs):
    if len(ours) == len(theirs):
        return ours, theirs
    return sum(ours)[None] / len(ours), sum(theirs)[None] / len(theirs)


def numpy_squared(ours, theirs, length):
    """(H, T, T) of each side, cut to real tokens -> (length,) mean over heads and keys."""
    ours, theirs = mean_of_heads_if_unlike(ours[:, :length, :length], theirs[:, :length, :length])
    out = np.zeros(length)
    for h, t, s in np.ndindex(*ours.shape):
        out[t] += (ours[h, t, s] - theirs[h, t, s]) ** 2 / len(ours) / length
    return out


def numpy_divergence(ours, theirs, length):
    """(H, T, T) scores of each side -> (length,) mean over heads of KL(teacher || student) over real keys."""
    weights = [
        np.array([[numpy_softmax(row) for row in head] for head in side[:, :length, :length]])
        for side in (ours, theirs)
    ]
    q, p = mean_of_heads_if_unlike(*weights)
    out = np.zeros(length)
    for h, t in np.ndindex(*p.shape[:2]):
        out[t] += numpy_kl(p[h, t], q[h, t]) / len(p)
    return out


def assert_tokens(value, of_row):
    """`of_row(b, length)` is what the real tokens of row b must have."""
    assert value.shape == (B, T)
    assert value.dtype == np.float32
    for b, length in enumerate(MASK.sum(1)):
        np.testing.assert_allclose(value[b, :length], of_row(b, length), rtol=1e-4, atol=1e-7)


def layer_scores(taps, b):
    return numpy_scores(taps["layer/query"][b], taps["layer/key"][b])


@pytest.mark.parametrize("case", [same_heads, unlike_heads])
def test_attention_maps_match_the_loops(case):
    student, teacher = case()
    value, _ = value_and_gradients(attention_maps([("attention", "attention")]), student, teacher)
    assert_tokens(value, lambda b, n: numpy_squared(*(side["attention"][b] for side in (student, teacher)), n))


@pytest.mark.parametrize("case", [same_heads, unlike_heads])
@pytest.mark.parametrize(
    ("loss", "oracle"), [(attention_scores, numpy_squared), (attention_divergence, numpy_divergence)]
)
def test_losses_on_scores_match_the_loops(case, loss, oracle):
    student, teacher = case()
    value, gradients = value_and_gradients(loss([LAYERS]), student, teacher)
    assert_tokens(value, lambda b, n: oracle(*(layer_scores(side, b) for side in (student, teacher)), n))
    assert sorted(gradients) == ["layer/key", "layer/query"]


def test_several_pairs_are_averaged():
    student, teacher = same_heads()
    for part in ("query", "key"):
        teacher[f"deep/{part}"] = teacher[f"layer/{part}"] * 2
    one, two = (value_and_gradients(attention_scores([("layer", of)]), student, teacher)[0] for of in ("layer", "deep"))
    both, _ = value_and_gradients(attention_scores([LAYERS, ("layer", "deep")]), student, teacher)
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-5)


def numpy_relation_scores(vectors, relation_heads, length):
    """(H, T, d) of one text -> joined over heads, cut into relation heads, X X^T / sqrt(width): (A, n, n)."""
    joined = np.array([np.concatenate([head[t] for head in vectors]) for t in range(length)], "float64")
    width = joined.shape[1] // relation_heads
    pieces = np.array([joined[:, a * width : (a + 1) * width] for a in range(relation_heads)])
    return numpy_scores(pieces, pieces)


@pytest.mark.parametrize("relation_heads", [1, 3, 6])
@pytest.mark.parametrize("parts", [("query", "key", "value"), ("value",), ("key", "query")])
def test_relations_match_the_loops(relation_heads, parts):
    student, teacher = unlike_heads()
    value, gradients = value_and_gradients(relations(LAYERS, relation_heads, parts), student, teacher)

    def of_row(b, length):
        scores = [
            [numpy_relation_scores(side[f"layer/{part}"][b], relation_heads, length) for side in (student, teacher)]
            for part in parts
        ]
        return sum(numpy_divergence(*pair, length) for pair in scores) / len(parts)

    assert_tokens(value, of_row)
    assert sorted(gradients) == sorted(f"layer/{part}" for part in parts)


def test_value_relations_are_the_relations_of_the_values_alone():
    student, teacher = unlike_heads()
    of_values, gradients = value_and_gradients(value_relations(LAYERS, 2), student, teacher)
    np.testing.assert_array_equal(of_values, value_and_gradients(relations(LAYERS, 2, ["value"]), student, teacher)[0])
    assert list(gradients) == ["layer/value"]


def test_vectors_whose_heads_are_joined_already_are_the_same():
    student, teacher = unlike_heads()
    split, _ = value_and_gradients(value_relations(LAYERS, 3), student, teacher)
    for side in (student, teacher):
        side["layer/value"] = np.concatenate(np.moveaxis(side["layer/value"], 1, 0), axis=-1)  # (B, T, H d)
    joined, _ = value_and_gradients(value_relations(LAYERS, 3), student, teacher)
    np.testing.assert_allclose(joined, split, rtol=1e-6)


def test_a_lone_token_relates_to_itself_alone():
    taps = {"layer/value": np.ones((1, 2, 1, 3), "float32")}
    other = {"layer/value": np.full((1, 2, 1, 3), 5.0, "float32")}
    value, _ = value_and_gradients(value_relations(LAYERS, 2), taps, other, mask=None)
    np.testing.assert_array_equal(value, [[0.0]])


def test_relation_heads_that_do_not_divide_both_widths_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"relation_heads=4 .*student's width is 6, the teacher's 12.*\[1, 2, 3, 6\]"):
        value_and_gradients(relations(LAYERS, 4), student_taps(), teacher_taps())
    with pytest.raises(ValueError, match=r"relation_heads=0 must be a whole number"):
        relations(LAYERS, 0)


def test_unknown_parts_or_none_are_refused():
    with pytest.raises(ValueError, match=r"parts='keys' must be one of .*Did you mean parts='key'"):
        relations(LAYERS, 2, ["keys"])
    with pytest.raises(ValueError, match=r"pairs=\[\] leaves nothing to compare"):
        relations(LAYERS, 2, [])


@pytest.mark.parametrize("shapes", [((2, 3, 5, 5), (2, 3, 7, 7)), ((2, 5, 5), (2, 3, 5, 5))])
def test_attention_of_other_lengths_or_ranks_is_refused_with_both_shapes(shapes):
    student, teacher = (Outputs(None, {"a": np.ones(shape, "float32")}) for shape in shapes)
    with pytest.raises(ValueError, match=r"\('a', 'a'\) can't be compared: .*5\) and the teacher's \(2, 3, ") as caught:
        attention_maps([("a", "a")])(None, student, teacher)
    assert all(str(shape) in str(caught.value) for shape in shapes)


def test_relations_refuse_what_is_not_tokens_and_unlike_lengths():
    flat = Outputs(None, {"layer/value": np.ones((2, 6), "float32")})
    with pytest.raises(ValueError, match=r"'layer/value'.*shape \(2, 6\).*\(B, H, T, d\) or \(B, T, D\)"):
        value_relations(LAYERS, 2)(None, flat, flat)
    short, long = (Outputs(None, {"layer/value": np.ones((2, n, 6), "float32")}) for n in (3, 5))
    with pytest.raises(ValueError, match=r"student's tap has shape \(2, 3, 6\) and the teacher's \(2, 5, 6\)"):
        value_relations(LAYERS, 2)(None, short, long)
