"""Run in a process of its own: load a SavedModel as TensorFlow Serving does, where Keras and we can't be imported.

Usage: stock_loader.py FOLDER REQUESTS.json [FOLDER REQUESTS.json ...]; prints one JSON object a line for each folder.
It imports nothing of this project.
"""

import importlib.machinery
import json
import sys

BLOCKED = ("keras", "keras_transformer", "tf_keras", "tensorflow_text")


class Refusing:
    """Finds the blocked modules, so that TensorFlow may look for them, and refuses to load them."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            return importlib.machinery.ModuleSpec(name, self, origin=__file__)
        return None

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked here")

    def exec_module(self, module):
        raise ImportError(f"{module} is blocked here")


def blocked():
    refused = []
    for name in BLOCKED:
        try:
            __import__(name)
        except ImportError:
            refused.append(name)
    return refused


def described(signature):
    def tensors(group):
        return {
            name: {
                "dtype": tensorflow.as_dtype(tensor.dtype).name,
                "shape": [axis.size for axis in tensor.tensor_shape.dim],
            }
            for name, tensor in sorted(group.items())
        }

    return {"inputs": tensors(signature.inputs), "outputs": tensors(signature.outputs)}


def answer(session, signatures, request):
    signature = signatures[request["signature"]]
    fetches = {key: output.name for key, output in signature.outputs.items()}
    feeds = {}
    for name, value in request["inputs"].items():
        tensor = signature.inputs[name]
        feed = numpy.array(value, dtype=tensorflow.as_dtype(tensor.dtype).as_numpy_dtype)
        feeds[tensor.name] = feed.reshape(request.get("shape", feed.shape))
    try:
        outputs = session.run(fetches, feeds)
    except tensorflow.errors.OpError as error:
        return {"status": type(error).__name__, "message": error.message}
    decode = numpy.vectorize(lambda item: item.decode() if isinstance(item, bytes) else item, otypes=[object])
    return {key: decode(output).tolist() if output.size else [] for key, output in outputs.items()}


def main(folder, requests):
    with tensorflow.Graph().as_default(), tensorflow.compat.v1.Session() as session:
        loaded = tensorflow.compat.v1.saved_model.loader.load(session, ["serve"], folder)
        signatures = {name: s for name, s in loaded.signature_def.items() if not name.startswith("__")}
        functions = loaded.graph_def.library.function
        return {
            "blocked": blocked(),
            "signatures": {name: described(signature) for name, signature in signatures.items()},
            "compiled": [f.signature.name for f in functions if f.attr["_XlaMustCompile"].b],
            "answers": [answer(session, signatures, request) for request in requests],
        }


if __name__ == "__main__":
    sys.meta_path.insert(0, Refusing())
    import numpy
    import tensorflow

    for folder, requests in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        with open(requests, encoding="utf-8") as file:
            print(json.dumps(main(folder, json.load(file))))
