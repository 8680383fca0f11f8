"""What `train` and `distill` of every task are told: the options, their command line, and where a run goes on from."""

import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.data import assets
from keras_transformer.files import sha256
from keras_transformer.recipes.start import Tell
from keras_transformer.recipes.unfinished import Unfinished

CONTENT = ("data", "init", "teacher", "unlabelled")  # settings that name files or folders, whose bytes count


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that all tasks share; None = the default that follows the data."""

    task: ClassVar[str]

    data: Path
    out: Path
    init: str | None = None
    size: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    learning_rate: float | None = None
    minutes: float | None = None
    seed: int = 0
    quiet: bool = False


def command(settings: Settings) -> str:
    """The command line that asks for these settings."""
    teacher = getattr(settings, "teacher", None)
    words = ["keras-transformer", *(["train", settings.task] if teacher is None else ["distill", str(teacher)])]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in ("teacher", "quiet") and value is not None and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def begin(settings: Settings) -> Unfinished:
    """Refuse places that hold other things; return where the state of this run is kept.

    What must be the same for a killed run to go on: the settings, and the bytes of what they name.

    Raises:
        UserError: if the folder is the teacher's, or holds what no run wrote.
    """
    teacher = getattr(settings, "teacher", None)
    if teacher is not None and Path(teacher).resolve() == settings.out.resolve():
        raise UserError(
            f"--out {settings.out}: is the teacher's folder, and the student would replace it. Give another."
        )
    bundle.refuse_foreign_folder(settings.out)
    own: dict[str, Any] = {name: str(value) for name, value in asdict(settings).items() if name not in ("out", "quiet")}
    own |= {f"{name}_sha256": _content(getattr(settings, name)) for name in CONTENT if hasattr(settings, name)}
    unfinished = Unfinished(settings.out, own)
    unfinished.refuse_foreign_folder()
    return unfinished


def teller(settings: Settings) -> Tell:
    """What says what takes time: to standard error, or nothing where the settings ask to be quiet."""
    return _silence if settings.quiet else assets.tell_on_stderr


def _content(place: Path | str | None) -> str:
    """The sha256 of a file, or of each file in a folder; "" for what is neither, such as --init none."""
    path = Path(place or "")
    if place is None or not path.exists():
        return ""
    if path.is_file():
        return sha256(path)
    return " ".join(f"{file.name}:{sha256(file)}" for file in sorted(path.iterdir()) if file.is_file())


def _silence(line: str) -> None:
    """Say nothing."""
