"""Tables of text: what reads, and that each mistake in a file is named with its file, line and column."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.checks import UserError
from keras_transformer.data.text import Pairs, Table, class_names, label_ids, read_pairs, read_table


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, content: str | bytes):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "text,label\nfine,yes\ndull,no\n"),
        ("rows.csv", "\ufefftext,label\r\nfine,yes\r\ndull,no"),
        ("rows.CSV", "text,label\rfine,yes\rdull,no\r"),
        ("rows.csv", "id, label ,text,note\n1, yes ,fine,\n\n2,no,dull,x\n"),
        ("rows.csv", '"text","label"\n"fine","yes"\n"dull","no"\n'),
        ("rows.tsv", "label\ttext\nyes\tfine\nno\tdull\n"),
        ("rows.jsonl", '{"text": "fine", "label": "yes"}\n\n{"label": "no", "text": "dull", "id": [1]}\n'),
        ("rows.jsonl", '\ufeff{"text": "fine", "label": "yes"}\r\n{"text": "dull", "label": "no"}\r\n'),
    ],
)
def test_each_kind_of_file_gives_the_same_table(write, name, content):
    assert read_table(write(name, content)) == Table(["fine", "dull"], ["yes", "no"])


def test_other_column_names_are_read_when_they_are_named(write):
    path = write("rows.csv", "review,stars,text\nfine,5,x\ndull,2,y\n")
    assert read_table(path, "review", "stars") == Table(["fine", "dull"], ["5", "2"])


def test_without_a_label_column_labels_are_not_read(write):
    path = write("rows.csv", "text,label\nfine,\ndull,no\n")
    assert read_table(path, label_column=None) == Table(["fine", "dull"], None)


def test_a_quoted_text_keeps_commas_quotes_and_line_ends(write):
    path = write("rows.csv", 'text,label\n"a, ""b""\r\nc\n\nd",yes\n')
    assert read_table(path).texts == ['a, "b"\r\nc\n\nd']


def test_a_text_of_a_megabyte_is_read_whole(write):
    text = "word " * 200_000 + "end"
    assert read_table(write("rows.csv", f"text,label\n{text},yes\n")).texts == [text]


def test_a_line_separator_inside_json_is_text(write):
    path = write("rows.jsonl", '{"text": "a\u2028b\u0085c", "label": "yes"}\n')
    assert read_table(path).texts == ["a\u2028b\u0085c"]


def test_a_lone_surrogate_is_replaced_and_a_pair_is_joined(write):
    path = write("rows.jsonl", r'{"text": "a\ud800b \ud83d\ude00", "label": "yes"}')
    assert read_table(path).texts == ["a\ufffdb 😀"]


def test_numbers_and_booleans_of_json_are_labels(write):
    path = write("rows.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": true}\n{"text": "c", "label": "1"}\n')
    assert read_table(path).labels == ["1", "true", "1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "", r"rows\.csv: the file is empty\. Give a header and at least one row"),
        ("rows.csv", " \n\n", r"the file is empty"),
        ("rows.jsonl", "\ufeff", r"the file is empty"),
        ("rows.csv", "text,label\n", r"has no row below its header"),
        ("rows.csv", "txt,label\na,b\n", r"line 1: there is no column 'text'; found \['txt', 'label'\]"),
        ("rows.csv", "text,class\na,b\n", r"line 1: there is no column 'label'; found .* --label-column"),
        ("rows.csv", "text,label,text\na,b,c\n", r"line 1: the header names the column 'text' twice"),
        ("rows.csv", "text,label\na,yes\n,no\n", r"line 3, column 'text': the row has no text"),
        ("rows.csv", "text,label\na,yes\n \t,no\n", r"line 3, column 'text': the text is only spaces"),
        ("rows.csv", 'text,label\n"a\nb",yes\nc,\n', r"line 4, column 'label': the row has no label"),
        ("rows.csv", "text,label\na,  \n", r"line 2, column 'label': the label is only spaces"),
        ("rows.csv", "text,label\nwell, fine,yes\n", r"line 2: has 3 fields, but the header has 2 columns.*quotes"),
        ("rows.csv", "text,label\nfine\n", r"line 2: has 1 fields, but the header has 2"),
        ("rows.tsv", "text\tlabel\na\tb\tc\n", r"line 2: has 3 fields.*'\\t' between double quotes"),
        ("rows.csv", 'text,label\na,b\n"open,c\nd,e\n', r"line 3: isn't readable .*Check the double quotes"),
        ("rows.csv", b"text,label\nok,yes\ncaf\xe9,no\n", r"line 3: byte 21 \(0xe9\) isn't UTF-8\. Save it as UTF-8"),
        ("rows.csv", "text,label\na,b\n".encode("utf-16"), r"line 1: byte 0 .* isn't UTF-8"),
        ("rows.jsonl", '{"text": "a", "label": "b"}\n["a", "b"]\n', r'line 2: is \["a", "b"\], not a JSON object'),
        ("rows.jsonl", '{"text": "a", "label": "b"\n', r"line 1: isn't JSON .*Write one object a line"),
        ("rows.jsonl", "[" * 100_000, r"line 1: isn't JSON"),
        ("rows.jsonl", '{"text": "a", "text": "c", "label": "b"}', r"line 1: names the column 'text' twice"),
        ("rows.jsonl", '\n{"txt": "a", "label": "b"}', r"line 2: there is no column 'text'; found \['txt', 'label'\]"),
        ("rows.jsonl", '{"text": 5, "label": "b"}', r"line 1, column 'text': is 5, not a string"),
        ("rows.jsonl", '{"text": null, "label": "b"}', r"line 1, column 'text': the row has no text"),
        ("rows.jsonl", '{"text": "a", "label": null}', r"line 1, column 'label': the row has no label"),
        ("rows.jsonl", '{"text": "a", "label": ["b"]}', r"line 1, column 'label': is \['b'\], not a string"),
        ("rows.txt", "text,label\na,b\n", r"ends in '\.txt', not one of \.csv, \.tsv, \.jsonl"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_place(write, name, content, message):
    with pytest.raises(UserError, match=message):
        read_table(write(name, content))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: there is no such file\. Check the path"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"folder\.csv: can't be read"):
        read_table(tmp_path / "folder.csv")


@settings(deadline=None)
@given(content=st.binary(max_size=60), suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]), header=st.booleans())
def test_any_bytes_give_a_table_or_our_error(tmp_path_factory, content, suffix, header):
    path = tmp_path_factory.mktemp("bytes") / f"rows{suffix}"
    path.write_bytes((b"text,label\n" if header else b"") + content)
    try:
        table = read_table(path)
    except UserError as error:
        message = str(error)
    else:
        assert len(table.texts) == len(table.labels) > 0
        assert all(text.strip() for text in table.texts)
        message = str(path)
    assert message.startswith(str(path))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.text(min_size=1)).filter(lambda row: all(map(str.strip, row))), min_size=1
    )
)
def test_what_json_writes_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("json") / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), encoding="utf-8")
    table = read_table(path)
    assert list(zip(table.texts, table.labels, strict=True)) == [(text, label.strip()) for text, label in rows]


def test_a_table_with_a_label_too_few_is_refused():
    with pytest.raises(ValueError, match="2 texts have 1 labels: each needs one"):
        Table(["a", "b"], ["x"])


def test_class_names_are_sorted_and_ids_are_their_places():
    names = class_names(["b", "c", "a", "b"])
    assert names == ["a", "b", "c"]
    ids = label_ids(["b", "c", "a", "b"], names)
    assert ids.dtype == np.int32
    assert ids.tolist() == [1, 2, 0, 1]


def test_one_class_only_cannot_be_trained():
    with pytest.raises(UserError, match="all 3 rows are 'a', and a classifier needs two classes"):
        class_names(["a"] * 3)
    with pytest.raises(UserError, match="there are none"):
        class_names([])


def test_a_label_that_training_never_saw_is_named_with_its_row():
    with pytest.raises(
        UserError, match=r"row 2: the label 'positiv' is none of .*'negative', 'positive'.*mean 'positive'"
    ):
        label_ids(["negative", "positiv"], ["negative", "positive"])
    with pytest.raises(UserError, match=r"and 18 more\]\. Correct the row or train"):
        label_ids(["?"], [f"class {index}" for index in range(30)])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", 'source,target\nfine, gut \n"a, b",c\n'),
        ("rows.tsv", "id\ttarget\tsource\n1\t gut \tfine\n2\tc\ta, b\n"),
        ("rows.jsonl", '{"source": "fine", "target": " gut "}\n{"target": "c", "source": "a, b"}\n'),
    ],
)
def test_each_kind_of_file_gives_the_same_pairs(write, name, content):
    assert read_pairs(write(name, content)) == Pairs(["fine", "a, b"], [" gut ", "c"])


def test_pairs_of_other_columns_are_read_when_they_are_named(write):
    path = write("rows.csv", "en,de\nfine,gut\n")
    assert read_pairs(path, "en", "de") == Pairs(["fine"], ["gut"])
    with pytest.raises(UserError, match=r"there is no column 'source'; found \['en', 'de'\].*--source-column"):
        read_pairs(path)
    with pytest.raises(UserError, match=r"source and target are both column 'en'\. Name two columns"):
        read_pairs(path, "en", "en")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("source,target\nfine,\n", r"line 2, column 'target': the row has no target"),
        ("source,target\n ,gut\n", r"line 2, column 'source': the source is only spaces"),
        ("source,target\n", "has no row below its header. Give at least one row"),
    ],
)
def test_a_pair_that_lacks_a_side_is_named_with_its_place(write, content, message):
    with pytest.raises(UserError, match=message):
        read_pairs(write("rows.csv", content))


def test_a_target_too_few_is_refused():
    with pytest.raises(ValueError, match="2 sources have 1 targets: each needs one"):
        Pairs(["a", "b"], ["x"])
