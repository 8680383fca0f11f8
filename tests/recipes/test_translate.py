"""A user's own pairs through train and distil, on a small language and the smallest sizes."""

import numpy as np
import pytest
from sentences import sentence_pairs, write_columns

from keras_transformer import bundle, generation
from keras_transformer.checks import UserError
from keras_transformer.data.pair_batches import PairBatches
from keras_transformer.data.text import Pairs
from keras_transformer.evaluation import evaluate_translations
from keras_transformer.files import ModelFileError
from keras_transformer.generation.keras_writers import Translator
from keras_transformer.recipes import token_start, translate
from keras_transformer.recipes.settings import command
from keras_transformer.recipes.translate import DistillSettings, TrainSettings, distill, train
from keras_transformer.training import checkpoints

ROWS, MORE = 110, 13
HELD_OUT = 14  # 11 would be a tenth, but whole groups of sentences that are alike are held back
STUDENT = {"epochs": 2, "beam": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    sources, targets = zip(*sentence_pairs(ROWS + MORE), strict=True)
    write_columns(folder / "pairs.csv", english=sources[:ROWS], german=targets[:ROWS])
    write_columns(folder / "more.csv", english=sources[ROWS:])
    return folder


def settings(files, out, **changes):
    given = {"data": files / "pairs.csv", "out": out, "quiet": True, "epochs": 1, "max_length": 40}
    return {**given, "source_column": "english", "target_column": "german", **changes}


@pytest.fixture(scope="module")
def teacher(files):
    """A run folder made by `train`, and what `train` told."""
    out = files / "runs" / "teacher"
    return out, train(TrainSettings(**settings(files, out, size="tiny", epochs=2)))


def student_settings(files, teacher, out, **changes):
    return DistillSettings(**settings(files, out, **{"teacher": teacher[0], **changes}))


def test_train_writes_a_run_folder_whose_model_scores_what_was_told(files, teacher):
    out, told = teacher
    loaded = bundle.load(out, task="translate")
    assert (told["n"], told["epochs"], told["rows"]) == (HELD_OUT, 2, ROWS - HELD_OUT)
    assert {name: loaded.manifest.metrics[name] for name in ("bleu", "chrf", "n")} == {
        name: told[name] for name in ("bleu", "chrf", "n")
    }
    assert loaded.labels == []
    truth = dict(sentence_pairs(ROWS))
    assert len(set(loaded.examples)) == HELD_OUT
    held_out = Pairs(loaded.examples, [truth[text] for text in loaded.examples])
    assert evaluate_translations(generation.load(out), held_out)._asdict().items() <= told.items()
    assert sorted(path.name for path in out.parent.iterdir()) == ["teacher"]


@pytest.fixture
def asked(monkeypatch):
    """How many texts each search of a translator got."""
    numbers, translate = [], Translator.translate

    def counted(self, source_ids, *arguments):
        numbers.append(len(source_ids))
        return translate(self, source_ids, *arguments)

    monkeypatch.setattr(Translator, "translate", counted)
    return numbers


@pytest.fixture(scope="module")
def student(files, teacher):
    out = files / "runs" / "student"
    return out, distill(student_settings(files, teacher, out, **STUDENT, unlabelled=files / "more.csv"))


def test_distill_writes_a_smaller_model_of_the_same_vocabulary(teacher, student):
    out, told = student
    big, small = bundle.load(teacher[0]), bundle.load(out)
    assert small.tokenizer.vocab == big.tokenizer.vocab
    assert (small.model.num_layers, small.model.num_decoder_layers, small.model.model_dim) == (1, 1, 64)
    assert small.model.count_params() < big.model.count_params() / 2
    assert told["teacher_bleu"] == pytest.approx(teacher[1]["bleu"])
    assert told["rows"] == ROWS - HELD_OUT + MORE
    assert not out.with_name("student.partial").exists()


class StoppedError(Exception):
    """Raised where a recipe would begin to fit."""


@pytest.fixture
def fitted(monkeypatch):
    """What a recipe is about to fit."""
    seen = {}

    def keep(model, *others, **_):
        seen.update(model=model, batches=next(one for one in others if isinstance(one, PairBatches)))
        raise StoppedError

    monkeypatch.setattr(translate, "fit_on_tokens", keep)
    monkeypatch.setattr(translate, "fit_on_teacher_tokens", keep)
    return seen


@pytest.fixture
def at_random(monkeypatch):
    """Students start from random weights: their teacher's take a while, and the test looks at what they are shown."""
    monkeypatch.setattr(token_start, "start_from_teacher", lambda *_: None)


def shown(batches):
    """(source, target) of all pairs of an epoch, as tuples of ids."""
    found = []
    for inputs, labels in batches.batches(0):
        for source, target in zip(inputs["source_ids"], labels, strict=True):
            found.append((tuple(source[source > 0].tolist()), tuple(target[target > 0].tolist())))
    return sorted(found)


def test_a_student_starts_from_its_teachers_weights(files, teacher, tmp_path, fitted):
    """Each column of its token table is a mixture of the teacher's columns; no random table's is."""
    with pytest.raises(StoppedError):
        distill(student_settings(files, teacher, tmp_path / "student", beam=0, epochs=1))
    narrow, wide = (model.stack.tokens.table.numpy() for model in (fitted["model"], bundle.load(teacher[0]).model))
    rest = np.linalg.lstsq(wide, narrow, rcond=None)[1]
    assert narrow.shape[1] < wide.shape[1]
    assert rest.max() < 1e-6 * (narrow**2).sum(axis=0).min()


def test_a_student_sees_each_source_with_its_true_target_and_with_the_teachers(
    files, teacher, tmp_path, fitted, at_random, monkeypatch
):
    """Without a search it sees the true ones alone. What a teacher didn't bring to an end is left out."""
    tokenizer = bundle.load(teacher[0]).tokenizer

    def backwards(self, source_ids, decoding):
        return [[*ids[-2::-1], *([tokenizer.end_id] if sum(ids) % 2 else [])] for ids in source_ids]

    monkeypatch.setattr(Translator, "translate", backwards)
    seen = {}
    for beam in (0, None):
        with pytest.raises(StoppedError):
            distill(student_settings(files, teacher, tmp_path / f"student{beam}", beam=beam))
        seen[beam] = shown(fitted["batches"])
    assert len(seen[0]) == ROWS - HELD_OUT
    pairs = zip(*(tokenizer.encode(side, 99) for side in zip(*sentence_pairs(ROWS), strict=True)), strict=True)
    truth = {tuple(source): tuple(target) for source, target in pairs}
    assert seen[0] == sorted((source, truth[source]) for source, _ in seen[0])
    written = [(source, (*source[-2::-1], tokenizer.end_id)) for source, _ in seen[0] if sum(source) % 2]
    assert 0 < len(written) < ROWS - HELD_OUT
    assert seen[None] == sorted(seen[0] + written)


def test_a_teacher_translates_no_source_that_is_held_back(
    files, teacher, tmp_path, fitted, at_random, monkeypatch, capsys
):
    """Among more sources are three that measure, one of them written otherwise, and one that is too long."""
    measuring = bundle.load(teacher[0]).examples[:3]
    new = ["the bird sings.", "a bird!"]
    write_columns(tmp_path / "m.csv", english=[*measuring[:2], f"{measuring[2].upper()} 7 %s", *new, "a dog " * 50])
    asked = []
    monkeypatch.setattr(Translator, "translate", lambda self, ids, decoding: asked.extend(ids) or ids)
    given = {"unlabelled": tmp_path / "m.csv", "quiet": False}
    with pytest.raises(StoppedError):
        distill(student_settings(files, teacher, tmp_path / "student", **given))
    tokenizer = bundle.load(teacher[0]).tokenizer
    truth = [source for source, _ in sentence_pairs(ROWS)]
    assert len(asked) == ROWS - HELD_OUT + len(new)
    assert {tokenizer.decode(ids) for ids in asked} - set(truth) == set(new)
    assert not {tokenizer.decode(ids) for ids in asked} & set(bundle.load(teacher[0]).examples)
    said = "3 texts are left out because they are held back to measure, 1 because they are longer than 40 word pieces"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("size", ["tiny", "small", "base", None])
@pytest.mark.parametrize("layers", [1, 2, 6])
def test_every_size_is_one_that_a_student_can_have(size, layers):
    class Teacher:
        num_layers, num_decoder_layers, model_dim, num_heads, inner_dim = layers, layers, 10 * layers, layers, 37
        head_dim = 10

    arguments = token_start.student_size(size, Teacher())
    head_dim = arguments.get("head_dim") or arguments["model_dim"] / arguments["num_heads"]
    assert head_dim % 2 == 0  # sines and cosines of rotary positions come in pairs
    if size is None:
        assert head_dim <= Teacher.head_dim
        assert arguments["model_dim"] < Teacher.model_dim
        assert arguments["num_layers"] <= Teacher.num_layers
        assert arguments["inner_dim"] < Teacher.inner_dim


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_where_an_undisturbed_one_does(
    files, teacher, student, tmp_path, monkeypatch, asked
):
    """StoppedError after the first epoch of two; what the teacher wrote is kept, too."""
    given = {**STUDENT, "unlabelled": files / "more.csv"}
    killed, partial = tmp_path / "killed", tmp_path / "killed.partial"

    def stop(self, epoch, logs=None):
        end_of_epoch(self, epoch, logs)
        raise KeyboardInterrupt

    end_of_epoch = checkpoints.ResumableTraining.on_epoch_end
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.ResumableTraining, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            distill(student_settings(files, teacher, killed, **given))
    assert sorted(path.name for path in partial.iterdir()) == ["answers.json", "decision.json", "state.safetensors"]
    with pytest.raises(UserError, match=r"killed\.partial: holds the state of another run\. Give the same options"):
        distill(student_settings(files, teacher, killed, **{**given, "seed": 1}))
    assert asked == [ROWS - HELD_OUT + MORE]
    distill(student_settings(files, teacher, killed, **given))
    assert asked[1:] == [HELD_OUT, HELD_OUT]  # the held-out texts alone, by both models
    weights = (bundle.load(folder).model.get_weights() for folder in (student[0], killed))
    assert all(np.array_equal(one, two) for one, two in zip(*weights, strict=True))
    assert not partial.exists()


def test_pairs_that_are_too_long_are_left_out_and_counted(files, tmp_path, fitted, capsys):
    pairs = sentence_pairs(ROWS)
    long = [("a dog " * 30, "ein Hund"), ("a cat", "eine Katze " * 30)]
    sources, targets = zip(*pairs, *long, strict=True)
    write_columns(tmp_path / "pairs.csv", english=sources, german=targets)
    with pytest.raises(StoppedError):
        train(TrainSettings(**settings(tmp_path, tmp_path / "out", size="tiny", quiet=False)))
    seen = len(shown(fitted["batches"]))
    said = capsys.readouterr().err
    assert f"2 of {seen + 2} pairs are left out: they have a text of more than 40 word pieces (--max-length)" in said
    assert f"{seen} of {seen} pairs, up to 40 word pieces" in said


def test_an_older_run_folder_is_a_start(files, teacher, tmp_path, fitted):
    with pytest.raises(StoppedError):
        train(TrainSettings(**settings(files, tmp_path / "again", init=str(teacher[0]))))
    for before, after in zip(bundle.load(teacher[0]).model.get_weights(), fitted["model"].get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_column": "french"}, r"no column 'french'; found \['english', 'german'\]"),
        ({"source_column": "german"}, "source and target are both column 'german'"),
        ({"init": "nowhere"}, "--init nowhere: is no run folder, and to 'translate' a model starts from one or"),
        ({"init": "TEACHER", "size": "tiny"}, r"--size tiny: the weights of --init .* Leave --size out"),
        ({"max_length": 3}, "--max-length 3: each of the 96 pairs has a longer text. Use a larger number"),
    ],
)
def test_a_mistake_in_the_options_is_told_and_nothing_is_written(files, teacher, tmp_path, change, message):
    change = {name: str(teacher[0]) if value == "TEACHER" else value for name, value in change.items()}
    with pytest.raises(UserError, match=message):
        train(TrainSettings(**settings(files, tmp_path / "out", **change)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("english,german\na dog,ein Hund\na cat,\n", "line 3, column 'german': the row has no target"),
        ("english,german\n" + "a dog,ein Hund\n" * 3, "has 3 pairs: some train and some measure"),
    ],
)
def test_a_mistake_in_the_file_is_told(tmp_path, content, message):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        train(TrainSettings(**settings(tmp_path, tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "teacher"}, "--init teacher: only a classifier is cut out of its teacher"),
        ({"max_length": 200}, r"--max-length 200: the teacher was trained on texts of up to 40 word pieces"),
        ({"beam": 0, "unlabelled": "more.csv"}, "--beam 0 with --unlabelled: nobody would translate those texts"),
    ],
)
def test_a_student_that_cannot_be_is_refused(files, teacher, tmp_path, change, message):
    change = {name: files / value if name == "unlabelled" else value for name, value in change.items()}
    with pytest.raises(UserError, match=message):
        distill(student_settings(files, teacher, tmp_path / "out", **change))
    assert list(tmp_path.iterdir()) == []


def test_a_student_never_takes_the_place_of_its_teacher(files, teacher):
    out = teacher[0].parent / "." / teacher[0].name / ".." / teacher[0].name
    with pytest.raises(UserError, match=r"is the teacher's folder, and the student would replace it\. Give another"):
        distill(student_settings(files, teacher, out))


def test_a_teacher_of_another_task_is_refused(files, small_bundle, tmp_path):
    with pytest.raises(ModelFileError, match="was trained for 'classify', and 'translate' is needed here"):
        distill(student_settings(files, (small_bundle, {}), tmp_path / "out"))


def test_the_command_in_the_manifest_is_the_one_that_made_the_folder(files, teacher):
    columns = "--source-column english --target-column german"
    data = f"--data {files / 'pairs.csv'} --out {teacher[0]} --size tiny --epochs 2 --max-length 40"
    assert bundle.read(teacher[0]).manifest.command == f"keras-transformer train translate {data} {columns}"
    given = student_settings(files, teacher, files / "s", beam=0)
    assert command(given) == (
        f"keras-transformer distill {teacher[0]} --data {files / 'pairs.csv'} --out {files / 's'} --epochs 1 "
        f"--max-length 40 {columns} --beam 0"
    )
