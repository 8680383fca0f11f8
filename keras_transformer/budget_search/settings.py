"""What a search is told, and what must stay the same for one that was killed to go on."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_transformer.budget_search.wishes import Budget, LeastAccuracy
from keras_transformer.checks import UserError, positive_integer
from keras_transformer.files import sha256

FORMS = ("dynamic", "int8", "int4", "float16")
DEFAULT_FORMS = ("dynamic", "int8")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The options of `keras-transformer compress`; None = the default that follows the data.

    Raises:
        UserError: for a number format that a search doesn't write, or none at all.
    """

    teacher: Path
    data: Path
    out: Path
    budget: Budget  # one that limits nothing = a tenth of the teacher's weights in float32
    min_accuracy: LeastAccuracy
    test: Path | None = None  # labelled texts that only measure; None = rows of `data` that are held back
    unlabelled: Path | None = None
    latency_table: Path | None = None  # times measured elsewhere; None = measured here
    forms: tuple[str, ...] = DEFAULT_FORMS
    candidates: int = 4  # that learn for a short while
    epochs: int | None = None  # of a candidate that learns in full
    seed: int = 0
    text_column: str = "text"
    label_column: str = "label"
    quiet: bool = False

    def __post_init__(self) -> None:
        """Check what the types don't say."""
        positive_integer("--candidates", self.candidates)
        unknown = [form for form in self.forms if form not in FORMS]
        if unknown or not self.forms:
            raise UserError(
                f"--quantize {unknown[0] if unknown else ''}: a search writes {', '.join(FORMS)}. Use one or more."
            )


def fingerprint(settings: SearchSettings) -> dict[str, Any]:
    """The settings in JSON types, and the bytes of the files that they name."""
    named = (settings.data, settings.test, settings.unlabelled, settings.latency_table)
    return {
        "command": command(settings, with_out=False),
        "teacher": {path.name: sha256(path) for path in sorted(settings.teacher.iterdir()) if path.is_file()},
        "files": [None if path is None else sha256(path) for path in named],
    }


def command(settings: SearchSettings, *, with_out: bool = True) -> str:
    """The command line that asks for this search."""
    wish = settings.min_accuracy
    words = ["keras-transformer", "compress", str(settings.teacher), "--data", str(settings.data)]
    words += ["--budget", str(settings.budget)] if str(settings.budget) else []
    words += ["--min-accuracy", f"{wish.value:g}{'x' if wish.of_teacher else ''}"]
    for form in settings.forms if settings.forms != DEFAULT_FORMS else ():
        words += ["--quantize", form]
    defaults = {field: SearchSettings.__dataclass_fields__[field].default for field in OTHERS}
    for field, default in defaults.items():
        value = getattr(settings, field)
        if value is not None and value != default:
            words += [f"--{field.replace('_', '-')}", str(value)]
    return shlex.join([*words, *(["--out", str(settings.out)] if with_out else [])])


OTHERS = ("test", "unlabelled", "latency_table", "candidates", "epochs", "seed", "text_column", "label_column")
