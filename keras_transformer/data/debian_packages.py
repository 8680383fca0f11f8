"""One Debian package file through apt's own client: nothing is installed, and no right to install is needed."""

import os
import shutil
import subprocess
from pathlib import Path

from keras_transformer.checks import UserError


def download(name: str, project: str, version: str, folder: Path) -> Path:
    """Fetch the .deb file of `project` into `folder`; apt checks it against the signed list of the distribution.

    Args:
        name: what it is wanted for, as errors call it.
        project: the package.
        version: the exact version.
        folder: made if it isn't there.

    Raises:
        UserError: if this system has no apt, or apt doesn't know that version.
    """
    client = shutil.which("apt-get")
    if client is None:
        raise UserError(
            f"{name}: is fetched with apt-get, which this system doesn't have. Use the data sets that come through "
            "pip, or copy the cache folder of a Debian machine that has it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [client, "download", "--quiet", f"{project}={version}"],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    packages = sorted(folder.glob("*.deb"))
    if done.returncode or not packages:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("E:")), (lines or ["apt-get said nothing"])[-1])
        raise UserError(
            f"{name}: apt-get can't fetch {project}={version} ({reason}). It is of Debian 12 (bookworm): add that to "
            "the sources of apt and run `apt-get update`, or copy the cache folder of a machine that has it."
        )
    return packages[0]
