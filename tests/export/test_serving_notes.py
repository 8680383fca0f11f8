"""What lies beside a SavedModel for who runs TensorFlow Serving fits the model, and replaces nothing of theirs."""

import re
import shlex
import shutil

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from keras_transformer import export
from keras_transformer.checks import UserError
from keras_transformer.export.served_name import served_name
from keras_transformer.export.serving_notes import batch_rows, batching_text

NOTES = ["SERVING.md", "batching_parameters.txt", "models.config"]
EXAMPLES = ["a fine and funny film", "a dull film", "not funny at all", "fine acting, dull plot", "funny!"]


def batching_parameters():
    """The message that the server reads; tensorflow-serving-api leaves it out."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="read", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    names = ["max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"]
    wrapped = {"type": kinds.TYPE_MESSAGE, "type_name": ".google.protobuf.Int64Value", "label": kinds.LABEL_OPTIONAL}
    for number, name in enumerate(names, 1):
        message.field.add(name=name, number=number, **wrapped)
    sizes = {"number": 6, "type": kinds.TYPE_INT64, "label": kinds.LABEL_REPEATED}
    message.field.add(name="allowed_batch_sizes", **sizes)
    pads = {"number": 7, "type": kinds.TYPE_BOOL, "label": kinds.LABEL_OPTIONAL}
    message.field.add(name="pad_variable_length_inputs", **pads)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("read.BatchingParameters"))()


@pytest.fixture
def parts(small_tokenizer):
    return {
        "tokenizer": small_tokenizer,
        "labels": ["negative", "neutral", "positive"],
        "max_length": 13,
        "examples": EXAMPLES,
    }


def test_the_servers_own_proto_reads_the_configuration(small_saved_model):
    text = (small_saved_model / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("small", "/models/small", "tensorflow")


def test_batches_end_in_the_largest_size_and_are_never_padded_with_ids(small_saved_model):
    text = (small_saved_model / "batching_parameters.txt").read_text()
    found = text_format.Parse(text, batching_parameters())
    assert list(found.allowed_batch_sizes) == [1, 2, 4, 8, 16, 32]
    assert found.max_batch_size.value == 32
    assert 0 < found.batch_timeout_micros.value < 10_000
    assert found.max_enqueued_batches.value > 0
    assert not found.HasField("num_batch_threads")
    assert not found.pad_variable_length_inputs


@pytest.mark.parametrize(
    ("task", "max_length", "rows"),
    [
        *(("classify", 19, 32), ("classify", 512, 8), ("classify", 300, 8), ("classify", 9000, 1)),
        *(("translate", 23, 8), ("language-model", 1024, 4)),
    ],
)
def test_a_batch_has_a_power_of_two_of_rows_that_fit_into_one_pass(task, max_length, rows):
    assert batch_rows(task, max_length) == rows
    found = text_format.Parse(batching_text("m", rows, task), batching_parameters())
    assert found.allowed_batch_sizes[-1] == found.max_batch_size.value == rows
    assert list(found.allowed_batch_sizes) == sorted(set(found.allowed_batch_sizes))


def test_the_docker_command_names_the_files_where_it_mounts_them(small_saved_model):
    page = (small_saved_model / "SERVING.md").read_text()
    [command] = re.findall(r"```sh\n(docker run .*?)```", page, flags=re.DOTALL)
    words = shlex.split(command.replace("\\\n", " ").replace('"$PWD"', "FOLDER"))
    image = words.index("tensorflow/serving")
    assert words[words.index("--mount") + 1] == "type=bind,source=FOLDER,target=/models/small,readonly"
    assert words[image + 1 :] == [
        "--model_config_file=/models/small/models.config",
        "--enable_batching=true",
        "--batching_parameters_file=/models/small/batching_parameters.txt",
    ]
    assert [words[place + 1] for place, word in enumerate(words) if word == "-p"] == ["8500:8500", "8501:8501"]


def test_the_page_tells_what_each_signature_takes_and_gives(small_saved_model):
    page = (small_saved_model / "SERVING.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `encode` | `text` string (N,) | `embedding` float32 (N, 8) |",
        "| `serving_default` | `text` string (N,) | `labels` string (N,), `scores` float32 (N, 3) |",
        "| `tokens` | `token_ids` int32 (N, T) | `logits` float32 (N, 3) |",
    ]


def test_no_text_of_the_user_is_in_what_is_written_for_the_server(small_saved_model):
    for name in (*NOTES, "1/assets.extra/tf_serving_warmup_requests"):
        content = (small_saved_model / name).read_bytes()
        assert content
        assert not [text for text in EXAMPLES if text.encode() in content]


@pytest.mark.parametrize(
    ("folder", "name"),
    [("reviews-2.1_a", "reviews-2.1_a"), ("my model:v1/", "my_model_v1"), ("größe", "gr__e"), ("/", "model")],
)
def test_a_name_fits_into_an_address(folder, name):
    assert served_name(folder) == name


def test_the_name_is_that_of_the_folder_and_not_of_a_link_or_a_dot(tmp_path, monkeypatch):
    (tmp_path / "reviews").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "reviews")
    monkeypatch.chdir(tmp_path / "reviews")
    assert served_name(".") == served_name(tmp_path / "link") == served_name("../link/.") == "reviews"


@pytest.mark.parametrize("name", NOTES)
def test_a_file_that_no_export_wrote_is_not_replaced(small_model, parts, tmp_path, name):
    mine = tmp_path / "small" / name
    mine.parent.mkdir()
    mine.write_text("# mine\n")
    with pytest.raises(UserError, match=rf"{re.escape(name)}: is there and wasn't written by an export, so it isn't"):
        export.saved_model(small_model, mine.parent, **parts)
    assert [path.name for path in mine.parent.iterdir()] == [name]
    assert mine.read_text() == "# mine\n"


def test_a_new_export_writes_its_own_files_again(small_model, small_saved_model, parts, tmp_path):
    folder = shutil.copytree(small_saved_model, tmp_path / "small")
    texts = {name: (folder / name).read_text() for name in NOTES}
    for name, text in texts.items():
        assert "Written by `keras-transformer export`" in text.splitlines()[0]
        (folder / name).write_text(text + "old")
    export.saved_model(small_model, folder, **parts)
    assert {name: (folder / name).read_text() for name in NOTES} == texts
    assert sorted(path.name for path in folder.iterdir()) == ["1", *NOTES]
