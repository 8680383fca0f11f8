"""The name by which clients call a SavedModel: that of its folder, as far as it fits into an address."""

import os
import re
from pathlib import Path


def served_name(folder: Path | str) -> str:
    """The last part of the folder's real path; what has another meaning in an address or a shell becomes "_"."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", os.path.basename(os.path.realpath(folder))) or "model"
