"""TensorFlow Serving's services over loopback, asked with its own stubs and protos; the warm-up file is replayed."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from keras_transformer import serving

TEXTS = ["a fine and funny film", "a dull film", "funny!", "not funny at all"]
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


class Client:
    """The stubs of both services."""

    def __init__(self, port):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request):
        return self.prediction.Predict(request, timeout=60)


@pytest.fixture(scope="module")
def client(served):
    client = Client(served.grpc_port)
    yield client
    client.channel.close()


@pytest.fixture(scope="module")
def expected(small_bundle):
    return serving.load(small_bundle).predict(TEXTS)


def request(signature="", name="small", **inputs):
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = name, signature
    for key, value in inputs.items():
        made.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return made


def arrays(response):
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def test_texts_become_labels_and_scores(client, expected):
    response = client.predict(request(text=TEXTS))
    assert [label.decode() for label in arrays(response)["labels"]] == expected.labels
    np.testing.assert_allclose(arrays(response)["scores"], expected.scores, atol=1e-5)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("small", 1, "serving_default")


def test_any_number_of_texts_is_a_batch(client):
    none = request()
    none.inputs["text"].CopyFrom(tf.make_tensor_proto([], tf.string))
    assert {name: value.shape for name, value in arrays(client.predict(none)).items()} == {
        "labels": (0,),
        "scores": (0, 3),
    }
    many = arrays(client.predict(request("encode", text=["a film " * (1 + place % 9) for place in range(67)])))
    assert many["embedding"].shape == (67, 8)


def test_only_the_outputs_that_are_asked_for_come_back(client):
    asked = request(text=TEXTS)
    asked.output_filter.append("labels")
    assert set(client.predict(asked).outputs) == {"labels"}


def test_metadata_and_status_are_those_of_the_model(client):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "small"
    response = client.prediction.GetModelMetadata(asked, timeout=60)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert set(found.signature_def) == {"serving_default", "encode", "tokens"}
    assert [axis.size for axis in found.signature_def["encode"].outputs["embedding"].tensor_shape.dim] == [-1, 8]
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "small"
    (version,) = client.model.GetModelStatus(asked, timeout=60).model_version_status
    assert (version.version, version.state, version.status.error_code) == (1, version.AVAILABLE, 0)


def warm_up_of(folder):
    """The requests in the file, read with nothing of ours."""
    path = folder / "1" / "assets.extra" / "tf_serving_warmup_requests"
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    return [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]


def test_the_warm_up_file_is_answered_and_asks_every_signature(client, small_saved_model):
    requests = warm_up_of(small_saved_model)
    signatures = [one.model_spec.signature_name for one in requests]
    assert set(signatures) == {"serving_default", "encode", "tokens"}
    rows = []
    for one in requests:
        assert one.model_spec.name == "small"
        outputs = arrays(client.predict(one))
        rows.append({len(value) for value in outputs.values()})
    assert rows == [{1}] * 3 + [{32}] * 3


def test_the_warm_up_file_of_a_writer_is_answered(served_writer, writer_folder):
    client, requests = Client(served_writer.grpc_port), warm_up_of(writer_folder)
    names = {"serving_default", "generate", "search", "generate_tokens", "tokens"}
    assert {one.model_spec.signature_name for one in requests} == names
    answers = {one.model_spec.signature_name: arrays(client.predict(one)) for one in requests}
    assert answers["search"]["score"].shape == (1, 3)
    assert answers["generate"]["output"][0].decode().startswith("Hello, world.")
    client.channel.close()


def with_version(asked, version=None, label=""):
    if version is not None:
        asked.model_spec.version.value = version
    if label:
        asked.model_spec.version_label = label
    return asked


def claiming(shape):
    """A tensor of one value that claims to have this shape."""
    made = request()
    made.inputs["text"].CopyFrom(tf.make_tensor_proto(["a"]))
    made.inputs["text"].tensor_shape.Clear()
    for size in shape:
        made.inputs["text"].tensor_shape.dim.add(size=size)
    return made


def unfit():
    made = request(signature="tokens", token_ids=[[1, 2]])
    made.inputs["token_ids"].tensor_content = b"abc"
    return made


def twice():
    made = request(text=["a"])
    made.output_filter.extend(["labels", "labels"])
    return made


WRONG = {
    "model": (lambda: request(name="large", text=["a"]), MISSING, "there is no model 'large' here. Ask for 'small'"),
    "no name": (lambda: request(name="", text=["a"]), INVALID, "the request names no model"),
    "version": (lambda: with_version(request(text=["a"]), 7), MISSING, "there is no version 7 of 'small'"),
    "label": (lambda: with_version(request(text=["a"]), label="new"), MISSING, "version label 'new'"),
    "signature": (
        lambda: request("logits", text=["a"]),
        grpc.StatusCode.FAILED_PRECONDITION,
        "there is no signature 'logits'. Use one of ['encode', 'serving_default', 'tokens']",
    ),
    "input": (lambda: request(texts=["a"]), INVALID, "Missing: ['text']; not known: ['texts']"),
    "output": (twice, INVALID, "output 'labels': ask once for each of ['labels', 'scores']"),
    "shape": (lambda: request(text=[["a"]]), INVALID, "input 'text' has shape (1, 1), and the signature takes (any,)"),
    "type": (lambda: request(text=[1.5]), INVALID, "input 'text' is of type float32, and the signature takes string"),
    "wide ids": (
        lambda: request("tokens", token_ids=np.array([[2, 3]], "int64")),
        INVALID,
        "input 'token_ids' is of type int64, and the signature takes int32",
    ),
    "ids": (lambda: request("tokens", token_ids=[[2, 61]]), INVALID, "token_ids must lie in 0..60"),
    "length": (lambda: request("tokens", token_ids=[[2] * 14]), INVALID, "at most 13 columns, here they have] [14]"),
    "text": (lambda: request(text=["film " * (1 << 18)]), INVALID, "a text may have at most 1048576 bytes"),
    "claim": (lambda: claiming([1 << 40]), INVALID, "a tensor has from 0 to 16777216 values"),
    "negative": (lambda: claiming([-1]), INVALID, "has shape [-1]"),
    "content": (unfit, INVALID, "isn't a tensor of the type and shape it says"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_gets_a_status_and_the_reason_and_the_server_lives_on(client, expected, what):
    make, code, message = WRONG[what]
    with pytest.raises(grpc.RpcError) as refused:
        client.predict(make())
    assert refused.value.code() == code
    assert message in refused.value.details()
    assert arrays(client.predict(request(text=TEXTS[:1])))["labels"][0].decode() == expected.labels[0]


def test_a_message_beyond_the_limit_is_refused_before_it_is_read(client):
    with pytest.raises(grpc.RpcError) as refused:
        client.predict(request(text=["a" * (65 << 20)]))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_other_calls_of_the_services_say_what_to_use(client):
    examples = classification_pb2.ClassificationRequest()
    with pytest.raises(grpc.RpcError, match=r"takes tf\.Example, and these models take texts\. Use Predict"):
        client.prediction.Classify(examples, timeout=60)
    with pytest.raises(grpc.RpcError, match="keeps the model it was started with"):
        client.model.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), timeout=60)
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["weights"])
    asked.model_spec.name = "small"
    with pytest.raises(grpc.RpcError, match=r"metadata_field \['weights'\]: there is one"):
        client.prediction.GetModelMetadata(asked, timeout=60)


def test_requests_at_the_same_time_get_their_own_answers(client, expected):
    def ask(number):
        place = number % len(TEXTS)
        if number % 7 == 0:
            with pytest.raises(grpc.RpcError):
                client.predict(request(text=[1.5]))
        return place, arrays(client.predict(request(text=[TEXTS[place]] * (1 + number % 5))))

    with ThreadPoolExecutor(8) as pool:
        for place, outputs in pool.map(ask, range(40)):
            assert {label.decode() for label in outputs["labels"]} == {expected.labels[place]}
            np.testing.assert_allclose(outputs["scores"][-1], expected.scores[place], atol=1e-5)
