"""What a search has found out so far, kept beside its folder until it is done: a killed one asks nothing twice."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_transformer import files
from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError

FILE = "journal.json"


class Journal:
    """The folder OUT.partial: answers by name in one JSON file, and room for files beside it.

    Args:
        out: the folder that is to be.
        fingerprint: what makes a search this search, in JSON types.

    Raises:
        UserError: if the folder is another search's, or something else's.
        ModelFileError: if the file is damaged.
    """

    def __init__(self, out: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self._path = self.folder / FILE
        self._content: dict[str, Any] = {"fingerprint": dict(fingerprint), "found": {}}
        if self._path.exists():
            self._read()
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(
                f"{self.folder}: a search keeps its state there until it is done, and it holds something else. "
                "Move that away, or give another --out."
            )

    @property
    def goes_on(self) -> bool:
        """Whether anything was found out before."""
        return bool(self._content["found"])

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What was found under this name; else what `find` gives now, in JSON types, which is written down."""
        if name not in self._content["found"]:
            self._content["found"][name] = find()
            files.write_json(self._path, self._content)
        return self._content["found"][name]

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> None:
        content = files.read_json(self._path)
        if not isinstance(content, dict) or not isinstance(content.get("found"), dict):
            raise ModelFileError(f"{self._path}: isn't what a search writes. Delete {self.folder} to start over.")
        if content.get("fingerprint") != self._content["fingerprint"]:
            raise UserError(
                f"{self.folder}: holds the state of another search. Give the same options and files to go on, or "
                "delete the folder to start over."
            )
        self._content = content
