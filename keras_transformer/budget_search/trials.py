"""What a candidate costs as the file that it would be: written, loaded, and timed beside the teacher."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_transformer import benchmark
from keras_transformer.budget_search.material import Material
from keras_transformer.checks import UserError
from keras_transformer.export import tflite
from keras_transformer.export.parity import ParityError
from keras_transformer.models import TextClassifier

TEACHER = "teacher"
PROVING_TEXTS, TIMED_TEXTS, ROUNDS = 200, 40, 2


@dataclass(frozen=True)
class Cost:
    """What one file costs."""

    bytes: int
    ms: float  # median of a text at batch 1 in one thread
    speedup: float  # the teacher's median in the same run, over this; infinite if that isn't known


class Clock:
    """Times of files and of the teacher as a Keras graph, in one thread of this machine, or out of a user's table.

    Args:
        material: gives the texts that are timed.
        table: name/form -> ms, and "teacher"; None = measured here.
    """

    def __init__(self, material: Material, table: Mapping[str, float] | None) -> None:
        self._teacher, self.table = material.loaded.folder, table
        texts = material.measuring.texts
        self._texts = texts[:: max(1, len(texts) // TIMED_TEXTS)][:TIMED_TEXTS]

    def costs(self, paths: Mapping[str, Path]) -> dict[str, Cost]:
        """Name/form -> cost; with a table, of the files that have a row there."""
        if self.table is None:
            timed = benchmark.in_one_thread({TEACHER: self._teacher, **paths}, self._texts, rounds=ROUNDS)
            ms = {name: latency.p50_ms for name, latency in timed.items()}
        else:
            ms = dict(self.table)
        teacher = ms.get(TEACHER, math.inf)
        return {
            name: Cost(path.stat().st_size, ms[name], teacher / ms[name]) for name, path in paths.items() if name in ms
        }


def read_latencies(path: Path) -> dict[str, float]:
    """Read a CSV of `file,ms`: name/form as search.json has them, and "teacher".

    Raises:
        UserError: if a column is missing, or a time isn't a number above 0.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, float] = {}
    for number, row in enumerate(rows, start=2):
        try:
            found[row["file"]] = float(row["ms"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"--latency-table {path}: row {number} is {row}, and the columns are file,ms. "
                "Write for example 2x384-h12-f256-e192-v3/dynamic,1.5."
            ) from error
        if not 0 < found[row["file"]] < math.inf:
            raise UserError(f"--latency-table {path}: row {number} has {row['ms']} ms. Give a time above 0.")
    return found


def write(
    model: TextClassifier, folder: Path, forms: Sequence[str], material: Material, *, agreeing: bool
) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the model in each form; return form -> file, and form -> why it was refused.

    Args:
        model: float32.
        folder: gets FORM.tflite.
        forms: of `tflite`'s `quantize`.
        material: gives tokenizer, labels and the texts on which a file is compared.
        agreeing: False for a model that hasn't learned, whose file only shows what it costs.
    """
    paths, refused = {}, {}
    least: dict[str, Any] = {} if agreeing else {"min_agreement": 0.0, "tolerance": math.inf}
    for form in forms:
        path = folder / f"{form}.tflite"
        try:
            tflite(
                model,
                path,
                tokenizer=material.tokenizer,
                labels=material.loaded.labels,
                max_length=material.corpus.max_length,
                examples=material.choosing.texts[:PROVING_TEXTS],
                quantize=form,
                **least,
            )
        except ParityError as error:
            refused[form] = str(error)
        else:
            paths[form] = path
    return paths, refused
