"""The order of the parts, and the house rules that a program can check. Source is read, not run, but for one test."""

import ast
import re
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_transformer"
LONGEST_FILE, LONGEST_FUNCTION = 400, 50

# A part may use those in lines above its own, and its neighbours in the line where that makes no ring.
ORDER = [
    ["version", "checks", "tasks"],
    ["files"],
    ["data"],
    ["layers"],
    ["training", "scores"],
    ["pretrained"],
    ["models"],
    ["distillation"],
    ["compression"],
    ["export"],
    ["model_file", "bundle", "places", "serving", "generation", "benchmark", "evaluation", "report"],
    ["recipes", "model_server"],
    ["budget_search"],
    ["cli"],
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
MODELS = ("text_classifier", "causal_lm", "seq2seq", "masked_lm")
# What the order alone would allow.
NEVER = {
    "layers": {"tensorflow", "keras_transformer.files"},
    "distillation": {"keras_transformer.models", "keras_transformer.pretrained"},
    "compression": {"keras_transformer.models", "keras_transformer.pretrained"},
    # Any model that has the methods is exported; the loop over its steps, `models.decoding`, is pure functions.
    "export": {
        *("keras_transformer.pretrained", "keras_transformer.distillation"),
        *(f"keras_transformer.models.{name}" for name in MODELS),
    },
}
# What a phone file, `--help` and the reading of a bundle need: TensorFlow would cost them seconds.
LIGHT = [
    "",
    "checks",
    "files",
    "version",
    "scores",
    "bundle",
    "serving",
    "generation",
    "generation.lite_writers",
    "places",
    "benchmark",
    "benchmark.__main__",
    "export.lite_operators",
    "export.lite_trial",
    "report",
    "cli",
    "data.tokenizer",
    "data.reversible_tokenizer",
    "data.saved_tokenizers",
]
VAGUE = {"utils", "util", "common", "helpers", "misc", "base"}
# Brackets, so that a search for such a word doesn't end here.
SILENCED_OR_UNFINISHED = re.compile(r"n[o]qa|type[:] ignore|(pylint|ruff|mypy)[:]|fmt[:] off|T[O]DO|F[I]XME|X[X]X")


@cache
def sources():
    """Module name -> syntax tree of each file of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf-8"))
    return found


def part_of(module):
    return module.split(".")[1] if "." in module else ""


def imports(nodes):
    """Every name that the import statements among `nodes` could stand for."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_behind(names):
    """Of imported names, the modules of the package that they load: `a.b.Thing` loads a.b, and a before it."""
    for name in names:
        while name not in sources() and "." in name:
            name = name.rpartition(".")[0]
        if name in sources():
            yield name


def all_edges():
    """Module -> modules of the package that it imports anywhere, in functions and for type checkers too."""
    return {name: set(modules_behind(imports(ast.walk(tree)))) - {name} for name, tree in sources().items()}


def run_at_import(node):
    """The nodes that are executed when their module is imported: no function's body, nothing for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if not is_function and not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from run_at_import(child)


def loaded_by(module):
    """Names outside the package that importing `module` imports, with the module that does."""
    seen, waiting, outside = set(), [module], {}
    while waiting:
        current = waiting.pop()
        if current in seen or current not in sources():
            continue
        seen.add(current)
        names = list(imports(run_at_import(sources()[current])))
        outside |= {name.split(".")[0]: current for name in names}
        inside = set(modules_behind(names))
        waiting += [".".join(name.split(".")[:depth]) for name in inside for depth in range(1, name.count(".") + 2)]
    return outside


def test_every_part_has_its_place_in_the_order():
    parts = {part_of(module) for module in sources()} - {""}
    assert parts - set(RANK) == set(), "give the new part a line in ORDER"


def test_a_part_uses_only_parts_before_it():
    wrong = [
        f"{module} imports {target}"
        for module, targets in all_edges().items()
        for target in targets
        if part_of(module) != part_of(target)
        and RANK.get(part_of(target), -1) > RANK.get(part_of(module), -1)
        and part_of(module) in RANK
    ]
    assert wrong == []


def test_imports_name_their_module_in_full():
    relative = [
        f"{module}:{node.lineno}"
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_package_itself_uses_nothing_but_its_version():
    assert all_edges()["keras_transformer"] <= {"keras_transformer.version"}


@pytest.mark.parametrize("part", NEVER)
def test_a_part_knows_nothing_that_its_purpose_excludes(part):
    wrong = [
        f"{module} imports {name}"
        for module, tree in sources().items()
        if part_of(module) == part
        for name in imports(ast.walk(tree))
        if any(f"{name}.".startswith(f"{banned}.") for banned in NEVER[part])
    ]
    assert wrong == []


def test_no_imports_form_a_ring():
    """A file names its neighbours in full, `from ...export.parity import compare`: `__init__` may gather them all."""
    edges = all_edges()
    reach = {}
    for start in edges:
        waiting, seen = [start], set()
        while waiting:
            for target in edges[waiting.pop()]:
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        reach[start] = seen
    rings = {frozenset(other for other in reach[name] if name in reach[other]) for name in edges if name in reach[name]}
    assert [sorted(ring) for ring in rings] == []


@pytest.mark.parametrize("name", LIGHT)
def test_a_light_module_loads_neither_tensorflow_nor_keras(name):
    module = f"keras_transformer.{name}".rstrip(".")
    if module not in sources():
        pytest.fail(f"{module} is gone: take it out of LIGHT")
    heavy = {library: via for library, via in loaded_by(module).items() if library in {"tensorflow", "keras"}}
    assert heavy == {}


def test_importing_the_package_and_its_light_modules_loads_no_tensorflow():
    script = """
        import importlib, sys
        for name in sys.argv[1:]:
            importlib.import_module(name)
        print(sorted({"tensorflow", "keras", "tensorflow_datasets"} & set(sys.modules)))
    """
    names = [f"keras_transformer.{name}".rstrip(".") for name in LIGHT]
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *names], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_no_file_is_longer_than_four_hundred_lines():
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    long = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {str(path): lines for path, lines in long.items() if lines > LONGEST_FILE} == {}


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_function_body_is_longer_than_fifty_lines():
    long = []
    for module, tree in sources().items():
        for function in functions(tree):
            body = function.body[1:] if ast.get_docstring(function) is not None else function.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > LONGEST_FUNCTION:
                long.append(f"{module}.{function.name}: {lines} lines")
    assert long == []


def test_no_file_has_a_name_that_says_nothing():
    assert [str(path) for path in PACKAGE.rglob("*") if path.stem in VAGUE] == []


def test_the_package_raises_instead_of_asserting():
    found = [
        f"{module}:{node.lineno}"
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_no_except_catches_everything():
    found = []
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = (
                    {"everything"} if node.type is None else {n.id for n in ast.walk(node.type) if hasattr(n, "id")}
                )
                if caught & {"everything", "Exception", "BaseException"}:
                    found.append(f"{module}:{node.lineno}")
    assert found == []


def test_no_checker_is_silenced_and_nothing_is_left_for_later():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if SILENCED_OR_UNFINISHED.search(line)
    ]
    assert found == []


def test_every_public_function_and_class_is_documented_and_typed():
    found = []
    for module, tree in sources().items():
        if not ast.get_docstring(tree):
            found.append(f"{module} has no docstring")
        for node in tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                found.append(f"{module}.{node.name} has no docstring")
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if node.returns is None or any(argument.annotation is None for argument in given):
                    found.append(f"{module}.{node.name} has an argument or a result without a type")
    assert found == []
