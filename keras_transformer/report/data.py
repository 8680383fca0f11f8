"""What a report is made of: rows of measured results, their names in words, and their numbers in few figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self

from keras_transformer.checks import UserError

MODEL_NAMES = {
    "teacher": "teacher",
    "student_labels_only": "student, labels only",
    "student_distilled": "student, distilled",
}
FORMAT_NAMES = {
    "keras": "Keras",
    "saved_model": "SavedModel",
    "tflite_float32": "TFLite float32",
    "tflite_float16": "TFLite float16",
    "tflite_int8": "TFLite int8",  # int8 weights, float32 activations but in attention
    "tflite_static_int8": "TFLite static int8",
    "tflite_int16": "TFLite int16 activations",
    "tflite_int4": "TFLite int4 weights",
    "tflite_mixed": "TFLite int4 and int8 weights",
}


@dataclass(frozen=True)
class ModelRow:
    """One model in one form: how good it is and what it costs. Recall and F1 are macro, latency is at batch 1."""

    name: str
    format: str
    accuracy: float
    recall: float
    f1: float
    parameters: int
    bytes: int
    latency_ms_p50: float
    latency_ms_p95: float

    @property
    def title(self) -> str:
        """The model's name in words."""
        return MODEL_NAMES.get(self.name, self.name)

    @property
    def format_title(self) -> str:
        """The form's name in words."""
        return FORMAT_NAMES.get(self.format, self.format)


@dataclass(frozen=True)
class ParityRow:
    """How far a written file is from the Keras model that it came from."""

    format: str
    max_abs_logit_error: float
    top1_agreement: float
    flex_ops: list[str]


@dataclass(frozen=True)
class Report:
    """What one run of the main job gave."""

    seconds: float  # without the fetching of data and weights
    seed: int
    data: Mapping[str, int]  # number of texts: "train", "test", "unlabelled"
    models: Sequence[ModelRow]
    parity: Sequence[ParityRow]
    command: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)  # see `benchmark.machine`

    def to_json(self) -> dict[str, Any]:
        """Return what `report.json` holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Make a report out of what `to_json` returned; fields that a later version added are passed over.

        Raises:
            UserError: if a field is missing.
        """
        own = _known_fields(cls, content, "the report")
        own["models"] = [ModelRow(**_known_fields(ModelRow, row, "a row of 'models'")) for row in own["models"]]
        own["parity"] = [ParityRow(**_known_fields(ParityRow, row, "a row of 'parity'")) for row in own["parity"]]
        return cls(**own)

    @property
    def reference(self) -> ModelRow | None:
        """The row that sizes and latencies are compared with: the teacher in Keras, where there is one."""
        rows = [row for row in self.models if (row.name, row.format) == ("teacher", "keras")]
        return rows[0] if rows else None


def short_count(number: int) -> str:
    """A count in three figures: 22713601 -> "22.7M"."""
    return _short(number, ("", "k", "M", "G"))


def short_bytes(number: int) -> str:
    """Bytes in three figures and powers of 1000, as disks and app stores count: 1475000 -> "1.48 MB"."""
    return _short(number, (" B", " kB", " MB", " GB"))


def three_figures(number: float) -> str:
    """A number in three figures, without an exponent: 0.17964 -> "0.180"."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    exponent = math.floor(math.log10(abs(float(f"{number:.2e}"))))  # 9.999 is written as 10.0, not 10.00
    return f"{number:.{max(0, 2 - exponent)}f}"


def _short(number: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if abs(number) < 999.5:  # what would be written as 1000 is shorter in the next unit
            return (str(number) if isinstance(number, int) else three_figures(number)) + unit
        number = number / 1000
    return three_figures(number) + units[-1]


def _known_fields(cls: type, content: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The fields of a data class out of a JSON object; the ones without a default must be there."""
    if not isinstance(content, Mapping):
        raise UserError(f"{what} is {content!r}: it must be a JSON object. Write the report again.")
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in missing if name not in content]
    if missing:
        raise UserError(f"{what} has no {missing[0]!r}. Write the report again with the command that made it.")
    return {f.name: content[f.name] for f in fields(cls) if f.name in content}
