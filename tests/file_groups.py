"""Which test files pytest-xdist gives to one process."""

from xdist.scheduler import LoadFileScheduling

TOGETHER = ("tests/export/", "tests/model_server/")  # their conftest.py writes files for all that stand beside it


def group_of(nodeid: str) -> str:
    """The folder, if its files belong together, or the file."""
    return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.split("::", 1)[0])


class FolderScheduling(LoadFileScheduling):
    """As `--dist loadfile`, by groups of files."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
