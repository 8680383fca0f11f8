"""The shapes that a classifier can be cut to, and what each would weigh and take, before any is built."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_transformer.compression import factorise_kernels, kernel_spectra, ranks_of_share
from keras_transformer.models import TextClassifier
from keras_transformer.recipes.student import Rankings, StudentPlan, cut_student

MIN_COUNTS = (1, 3, 8, 20)
LOW_RANK = 0.25  # of the full rank: a square kernel has half of its weights then
FACTORISED = ("encoder_*",)


@dataclass(frozen=True)
class Shape:
    """What of the teacher stays."""

    layers: tuple[int, ...]  # numbers of the teacher's
    model_dim: int
    num_heads: int
    inner_dim: int
    embedding_dim: int | None  # None = the token table isn't factorised
    min_count: int  # a piece that the corpus has less often is dropped
    rank_share: float | None  # of the kernels in the layers; None = whole kernels

    @property
    def name(self) -> str:
        """Its sizes in short, the same in each run: "2x384-h12-f256-e192-v3"."""
        table = "" if self.embedding_dim is None else f"-e{self.embedding_dim}"
        rank = "" if self.rank_share is None else f"-r{self.rank_share:g}"
        size = f"{len(self.layers)}x{self.model_dim}-h{self.num_heads}-f{self.inner_dim}"
        return f"{size}{table}-v{self.min_count}{rank}"

    @property
    def plan(self) -> StudentPlan:
        """What `cut_student` takes."""
        return StudentPlan(
            layers=self.layers,
            inner_dim=self.inner_dim,
            embedding_dim=self.embedding_dim,
            min_count=self.min_count,
            num_heads=self.num_heads,
            model_dim=self.model_dim,
        )


@dataclass(frozen=True)
class Corpus:
    """The texts that cuts are chosen by, as token ids."""

    token_ids: Sequence[Sequence[int]]
    rankings: Rankings
    always: tuple[int, ...]  # ids that stay in each vocabulary
    max_length: int


def whole(teacher: TextClassifier) -> Shape:
    """The teacher's own shape, but for pieces that its corpus never has."""
    return Shape(
        layers=tuple(range(teacher.num_layers)),
        model_dim=teacher.model_dim,
        num_heads=teacher.num_heads,
        inner_dim=teacher.inner_dim,
        embedding_dim=None,
        min_count=1,
        rank_share=None,
    )


def options(teacher: TextClassifier) -> dict[str, list]:
    """The values that each field of a shape but `layers` may take, the teacher's own first."""
    width, heads, units = teacher.model_dim, teacher.num_heads, teacher.inner_dim
    return {
        "model_dim": _distinct(width, width // 2),
        "num_heads": _distinct(heads, max(1, heads // 2)),
        "inner_dim": _distinct(units, max(1, units // 2), max(1, units // 6)),
        "embedding_dim": [None, *_distinct(*(max(1, width // part) for part in (2, 4, 8)))],
        "min_count": list(MIN_COUNTS),
        "rank_share": [None, LOW_RANK],
    }


def depths(num_layers: int) -> list[int]:
    """How many layers are tried: all, two thirds, half, a third, a sixth of them."""
    return _distinct(*(max(1, round(num_layers * share)) for share in (1, 2 / 3, 1 / 2, 1 / 3, 1 / 6)))


def every_shape(teacher: TextClassifier, layers: Mapping[int, tuple[int, ...]]) -> Iterator[Shape]:
    """All shapes of these sets of layers (by their number) and of `options`."""
    choices = options(teacher)
    for kept in layers.values():
        for values in itertools.product(*choices.values()):
            shape = Shape(layers=kept, **dict(zip(choices, values, strict=True)))
            # A factor as wide as the model has the more weights.
            if shape.embedding_dim is None or shape.embedding_dim < shape.model_dim:
                yield shape


def weights(shape: Shape, head_dim: int, pieces: int, max_length: int) -> int:
    """About how many weights a shape has that keeps so many pieces: the kernels and tables."""
    return _body(shape, head_dim) + _table(shape, pieces) + max_length * shape.model_dim


def operations(shape: Shape, head_dim: int, length: int) -> float:
    """Multiplications and additions of one forward pass over a text of this length."""
    factor = 0 if shape.embedding_dim is None else shape.embedding_dim * shape.model_dim
    attention = 4.0 * length**2 * shape.num_heads * head_dim * len(shape.layers)
    return 2.0 * length * (_body(shape, head_dim) + factor) + attention


def build(teacher: TextClassifier, shape: Shape, corpus: Corpus, dtype: str, dropout: float = 0.0) -> TextClassifier:
    """Cut the shape out of the teacher.

    Raises:
        ValueError: if the teacher was cut already; see `cut_student`.
    """
    student = cut_student(
        teacher,
        shape.plan,
        corpus.token_ids,
        always=corpus.always,
        max_length=corpus.max_length,
        dropout=dropout,
        dtype=dtype,
        rankings=corpus.rankings,
    )
    if shape.rank_share is None:
        return student
    spectra = kernel_spectra(student, FACTORISED)
    return factorise_kernels(student, ranks_of_share(spectra, shape.rank_share), spectra)


def kept_pieces(counts: np.ndarray, always: Sequence[int], min_count: int) -> int:
    """How many pieces stay in the vocabulary."""
    stays = counts >= min_count
    stays[list(always)] = True
    return int(stays.sum())


def _body(shape: Shape, head_dim: int) -> int:
    width, inner = shape.model_dim, shape.inner_dim
    heads = shape.num_heads * head_dim
    kernels = [(width, heads)] * 3 + [(heads, width), (width, inner), (inner, width)]
    return len(shape.layers) * sum(_kernel(one, shape.rank_share) for one in kernels)


def _kernel(sides: tuple[int, int], share: float | None) -> int:
    full = sides[0] * sides[1]
    return full if share is None else min(full, round(share * min(sides)) * sum(sides))


def _table(shape: Shape, pieces: int) -> int:
    if shape.embedding_dim is None:
        return pieces * shape.model_dim
    return (pieces + shape.model_dim) * shape.embedding_dim


def _distinct(*values: int) -> list[int]:
    return list(dict.fromkeys(values))
