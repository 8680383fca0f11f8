"""What the guides for phones say of our files is so: every name in their code is one of a file that was exported.

A guide keeps the names in one block, each with the part it plays: `TOKEN_IDS = "token_ids" // input of prompt, step`.
A prefix stands before the name of an input: an output of that name is what a signature adds to that input.
"""

import json
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from writing_models import ROOM

from keras_transformer.export.attachments import FLATBUFFER

DOCS = Path(__file__).parents[2] / "docs"
LANGUAGES = {"android": "kotlin", "ios": "swift", "flutter": "dart"}
WRITERS = {"a translator": "translate", "a language model": "language-model"}
OF_NAMES = re.compile(
    r"""(\w+) = ["']([^"']+)["'];? *// (signature|input|output|prefix|entry|setting)(?: of ([\w, ]+))?$""", re.M
)
LITERAL = re.compile(r"""["']([a-z_.]+)["']""")


class Name(NamedTuple):
    """A name of a file, as a guide's code has it."""

    constant: str
    text: str
    part: str  # "signature", "input", "output", "prefix", "entry" or "setting"
    of: tuple[str, ...]  # the signatures of an input, an output or a prefix


class File(NamedTuple):
    """What a real file has."""

    signatures: dict[str, dict[str, list[str]]]  # signature -> "inputs", "outputs" -> names
    entries: dict[str, object]  # name -> parsed content

    @property
    def names(self):
        """All that a guide's code could call by a string."""
        tensors = {name for one in self.signatures.values() for names in one.values() for name in names}
        return {*self.signatures, *tensors, *self.entries, "max_length", "vocab_size"}


def read(path):
    with zipfile.ZipFile(path) as archive:
        entries = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    return File(Interpreter(model_path=str(path)).get_signature_list(), entries)


def guide(name):
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def code(text, language):
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return "\n".join(block for block in blocks if "build.gradle" not in block)


def names_in(source):
    return [Name(*found[:3], tuple(re.findall(r"\w+", found[3]))) for found in OF_NAMES.findall(source)]


def found(signature, part):
    """The inputs or outputs of a signature, or the prefixes of those outputs that are added to an input."""
    if part != "prefix":
        return signature[f"{part}s"]
    inputs = signature["inputs"]
    others = [name for name in signature["outputs"] if name not in {"logits", *inputs}]
    prefixes = {name.removesuffix(of) for name in others for of in inputs if name.endswith(of)}
    return {prefix for prefix in prefixes if all(name.removeprefix(prefix) in inputs for name in others)}


def untrue(names, files):
    """What a guide says that the files deny; every name must be true of each file that has such a signature."""
    wrong, signatures = [], {signature for file in files for signature in file.signatures}
    for name in names:
        if name.part == "signature" and name.text not in signatures:
            wrong.append(f"no file has a signature {name.text!r}")
        for signature in name.of:
            having = [file.signatures[signature] for file in files if signature in file.signatures]
            if not having or any(name.text not in found(one, name.part) for one in having):
                wrong.append(f"{signature!r} has no {name.part} {name.text!r}")
        if name.part == "entry" and any(name.text not in file.entries for file in files):
            wrong.append(f"a file has no entry {name.text!r}")
        if name.part == "setting" and any(name.text not in file.entries["settings.json"] for file in files):
            wrong.append(f"the settings have no {name.text!r}")
    return wrong


@pytest.fixture(scope="module")
def classifier(lite):
    return read(lite("none").path)


@pytest.fixture(scope="module")
def writers(lite_writer):
    return {kind: read(lite_writer(task).path) for kind, task in WRITERS.items()}


@pytest.fixture(scope="module")
def files(classifier, writers):
    return [classifier, *writers.values()]


@pytest.fixture(params=LANGUAGES)
def named(request):
    """The text of a guide, its code, and the names in it."""
    text = guide(request.param)
    source = code(text, LANGUAGES[request.param])
    return text, source, names_in(source)


def test_every_name_in_a_guide_is_one_of_the_files(named, files):
    assert untrue(named[2], files) == []


def test_a_renamed_signature_tensor_or_entry_would_be_seen(named, files):
    """Each name of each guide in turn, as if the exporter called it something else."""
    for at, name in enumerate(named[2]):
        renamed = [*named[2]]
        renamed[at] = name._replace(text=f"{name.text}_of_old")
        assert untrue(renamed, files), name


def test_a_guide_names_all_that_an_app_needs(named, files, classifier):
    _, source, names = named
    by_part = {part: {name.text for name in names if name.part == part} for part in ("signature", "entry", "setting")}
    assert by_part["entry"] == set(classifier.entries)
    assert by_part["setting"] == {"max_length", "vocab_size"}
    needed = {signature for file in files for signature in file.signatures}
    # A package without signatures runs the only one that a classifier has.
    by_number = {"tokens"} if "_interpreter.run(" in source else set()
    assert by_part["signature"] | by_number == needed
    assert [(name.part, name.of) for name in names if name.text == "new_"] == [("prefix", ("step",))]
    for part in ("input", "output"):
        assert {of for name in names if name.part == part for of in name.of} | by_number == needed


def test_a_guide_uses_each_name_and_writes_none_a_second_time(named, files):
    _, source, names = named
    assert [name.constant for name in names if f"Names.{name.constant}" not in source] == []
    elsewhere = OF_NAMES.sub("", source)
    real = set().union(*(file.names for file in files), (name.text for name in names))
    assert sorted(set(LITERAL.findall(elsewhere)) & real) == []


def test_a_classifier_has_one_signature_with_one_input_and_one_output(classifier):
    assert classifier.signatures == {"tokens": {"inputs": ["token_ids"], "outputs": ["logits"]}}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_state_that_a_prompt_gives_is_what_a_step_takes(kind, writers):
    """The loops in the guides hand on by name, and put what is `new_` into its place."""
    prompt, step = (writers[kind].signatures[name] for name in ("prompt", "step"))
    state = set(prompt["outputs"]) - {"logits"}
    assert set(prompt["inputs"]) == {"token_ids"}
    assert set(step["inputs"]) == {"token_ids", *state}
    added = {name for name in state if name.startswith(("key_", "value_"))}
    assert set(step["outputs"]) == {"logits", "position", *(f"new_{name}" for name in added)}


@pytest.mark.parametrize("task", WRITERS.values())
def test_a_step_gives_one_place_of_each_cache(task, lite_writer):
    """The guides compute where it goes from these shapes: the heads, the room and the size of a head."""
    step = Interpreter(model_path=str(lite_writer(task).path)).get_signature_runner("step")
    caches, given = step.get_input_details(), step.get_output_details()
    added = {name.removeprefix("new_"): one for name, one in given.items() if name.startswith("new_")}
    assert {"key_0", "value_0"} <= set(added)
    for name, one in added.items():
        batch, heads, room, size = caches[name]["shape"]
        assert (batch, room) == (1, ROOM)
        assert one["shape"].tolist() == [1, heads, 1, size]
        assert one["dtype"] == caches[name]["dtype"] == np.float32


def test_the_table_of_signatures_is_that_of_the_files(classifier, writers):
    rows = re.findall(r"^\| `(\w+)` \| (an? [\w ]+) \| (`token_ids`.*?) \| (.*?) \|$", guide("phones"), re.M)
    told = {
        (kind, signature): tuple(sorted(re.findall(r"`(\w+)`", cell)) for cell in cells)
        for signature, kind, *cells in rows
    }
    real = {
        (kind, signature): tuple(
            sorted({re.sub(r"_\d+$", "_N", name) for name in one[part]}) for part in ("inputs", "outputs")
        )
        for kind, file in {"a classifier": classifier, **writers}.items()
        for signature, one in file.signatures.items()
    }
    assert told == real


def test_the_table_of_entries_is_that_of_a_file(classifier):
    assert set(re.findall(r"^\| `([\w.]+\.json)` \|", guide("phones"), re.M)) == set(classifier.entries)


def test_the_archive_is_found_as_the_guides_find_it(lite):
    """From the last 22 bytes, with offsets from the start of the file, each entry packed with plain deflate."""
    content = Path(lite("none").path).read_bytes()

    def number(offset, size):
        return int.from_bytes(content[offset : offset + size], "little")

    end = len(content) - 22
    assert number(end, 4) == 0x06054B50
    entry, found = number(end + 16, 4), {}
    first = number(entry + 42, 4)
    for _ in range(number(end + 10, 2)):
        local, name = number(entry + 42, 4), content[entry + 46 : entry + 46 + number(entry + 28, 2)].decode()
        start = local + 30 + number(local + 26, 2) + number(local + 28, 2)
        found[name] = json.loads(zlib.decompress(content[start : start + number(entry + 20, 4)], wbits=-15))
        entry += 46 + number(entry + 28, 2) + number(entry + 30, 2) + number(entry + 32, 2)
    assert found == read(lite("none").path).entries
    assert first == found["settings.json"]["parts"][FLATBUFFER]["bytes"]
    assert struct.unpack("<I", content[first : first + 4]) == (0x04034B50,)  # where a stream of entries begins


def test_the_oldest_runtime_is_as_the_guide_says(lite, lite_writer):
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+\.\d+\.\d+) \|", guide("phones"), re.M))
    assert set(told) == {"none", "float16", "dynamic"}
    assert oldest_runtime(lite("none").path) == told["none"]
    assert oldest_runtime(lite_writer("language-model", "dynamic").path) == told["dynamic"]
    assert oldest_runtime(lite("dynamic").path) is None


def oldest_runtime(path):
    """The `min_runtime_version` that the converter wrote into the flatbuffer's metadata."""
    model = schema.Model.GetRootAs(Path(path).read_bytes(), 0)
    for index in range(model.MetadataLength()):
        if model.Metadata(index).Name() == b"min_runtime_version":
            return bytes(model.Buffers(model.Metadata(index).Buffer()).DataAsNumpy()).rstrip(b"\0").decode()
    return None


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_guide_says_at_its_top_what_was_not_compiled_and_which_versions_it_is_for(name):
    top = guide(name).split("\n## ")[0]
    assert "not compiled" in " ".join(top.split())
    assert re.search(r"Written against.*? \d+\.\d+\.\d+", top, re.DOTALL)


@pytest.mark.parametrize("name", ["phones", *LANGUAGES])
def test_every_file_that_a_guide_links_is_there(name):
    prose = re.sub(r"```.*?```", "", guide(name), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    assert links
    assert [link for link in links if not (DOCS / link).exists()] == []
