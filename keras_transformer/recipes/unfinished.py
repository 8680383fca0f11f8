"""What a `train` or `distill` that isn't done keeps beside its run folder: the state, and what it decided to do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_transformer import files
from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError
from keras_transformer.training import checkpoints

DECISION, ANSWERS = "decision.json", "answers.json"
OWN = (checkpoints.FILE, DECISION, ANSWERS)


class Unfinished:
    """The folder OUT.partial of a run, gone when the run is done.

    What fits into `--minutes` follows from a measured speed, so it is decided once and read back by the command that
    goes on.

    Args:
        out: the run folder that is to be.
        fingerprint: what makes a run this run, in JSON types.
    """

    def __init__(self, out: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self.fingerprint = dict(fingerprint)

    def recall(self) -> dict[str, int] | None:
        """Return what this run decided before it was killed; None if it is new, or another run's.

        Raises:
            ModelFileError: if the file is damaged.
        """
        return self._read(DECISION, "decision", dict)

    def remember(self, decision: Mapping[str, int]) -> None:
        """Write what was decided, unless the folder holds the state of a run: that decided for itself."""
        if not (self.folder / checkpoints.FILE).exists():
            files.write_json(self.folder / DECISION, {"decision": decision, "fingerprint": self.fingerprint})

    def recall_answers(self) -> list[list[int]] | None:
        """Return what a teacher wrote for this run before it was killed, as token ids; None if it hadn't got so far.

        Raises:
            ModelFileError: if the file is damaged.
            UserError: if the folder holds the state of another run: it would be refused when all was written.
        """
        answers = self._read(ANSWERS, "answers", list)
        if answers is None and (self.folder / checkpoints.FILE).exists():
            raise UserError(
                f"{self.folder}: holds the state of another run. Give the same options to go on, or delete the folder "
                "to start over."
            )
        return answers

    def remember_answers(self, answers: Sequence[Sequence[int]]) -> None:
        """Keep what a teacher wrote, which may have taken hours."""
        files.write_json(self.folder / ANSWERS, {"answers": answers, "fingerprint": self.fingerprint})

    def discard(self) -> None:
        """Remove what the run wrote, and the folder unless something else is in it by now."""
        for path in self._entries():
            if _is_own(path.name):
                path.unlink()
        if self.folder.is_dir() and not self._entries():
            self.folder.rmdir()

    def refuse_foreign_folder(self) -> None:
        """Raise UserError if the folder holds what no run wrote: it would be lost when the run is done."""
        foreign = [path.name for path in self._entries() if not _is_own(path.name)]
        if foreign:
            raise UserError(
                f"{self.folder}: a run keeps its state there until it is done, and it holds {foreign[0]!r}. "
                "Move that away, or give another --out."
            )

    def _read(self, name: str, field: str, kind: type) -> Any:
        """The field of a file of this run; None if there is none, or it is another run's."""
        path = self.folder / name
        if not path.exists():
            return None
        content = files.read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get(field), kind):
            raise ModelFileError(f"{path}: isn't what a run writes. Delete the folder {self.folder} to start over.")
        return content[field] if content.get("fingerprint") == self.fingerprint else None

    def _entries(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []


def _is_own(name: str) -> bool:
    """True for the files of a run, and for what a process killed while writing one of them left."""
    return name in OWN or any(name.startswith(f".{own}.") and name.endswith(".partial") for own in OWN)
