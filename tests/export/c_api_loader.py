"""Run in a process of its own: ask a SavedModel through TensorFlow's C API, with XLA off as TensorFlow Serving starts.

Usage: c_api_loader.py FOLDER REQUESTS.json [FOLDER REQUESTS.json ...]; prints one JSON object a line for each folder.
It imports neither TensorFlow's Python nor anything of this project: ctypes, numpy, and protobuf for the signatures.
"""

import ctypes
import importlib.util
import json
import os
import sys

import numpy
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

STRING = 7  # DataType, as in tensorflow/core/framework/types.proto
NUMBERS = {1: numpy.float32, 3: numpy.int32}
TSTRING_BYTES = 24
CODES = {0: "OK", 3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 9: "FAILED_PRECONDITION", 12: "UNIMPLEMENTED"}
POINTER, INT, SIZE, TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p


class Output(ctypes.Structure):
    """TF_Output: an operation and which of its outputs."""

    _fields_ = (("operation", POINTER), ("index", INT))


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", POINTER), ("length", SIZE), ("deallocator", POINTER))


def library():
    """TensorFlow's shared library with the types of the functions that are used here, and XLA off."""
    (folder,) = importlib.util.find_spec("tensorflow").submodule_search_locations
    ctypes.CDLL(os.path.join(folder, "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    loaded = ctypes.CDLL(os.path.join(folder, "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    types = {
        "TF_NewStatus": (POINTER,),
        "TF_GetCode": (INT, POINTER),
        "TF_Message": (TEXT, POINTER),
        "TF_NewGraph": (POINTER,),
        "TF_NewBuffer": (ctypes.POINTER(Buffer),),
        "TF_NewSessionOptions": (POINTER,),
        "TF_LoadSessionFromSavedModel": (POINTER, POINTER, POINTER, TEXT, POINTER, INT, POINTER, POINTER, POINTER),
        "TF_GraphOperationByName": (POINTER, POINTER, TEXT),
        "TF_AllocateTensor": (POINTER, INT, POINTER, INT, SIZE),
        "TF_DeleteTensor": (None, POINTER),
        "TF_TensorData": (POINTER, POINTER),
        "TF_TensorByteSize": (SIZE, POINTER),
        "TF_TensorType": (INT, POINTER),
        "TF_NumDims": (INT, POINTER),
        "TF_Dim": (ctypes.c_int64, POINTER, INT),
        "TF_StringInit": (None, POINTER),
        "TF_StringCopy": (None, POINTER, TEXT, SIZE),
        "TF_StringGetDataPointer": (POINTER, POINTER),
        "TF_StringGetSize": (SIZE, POINTER),
        "TF_SessionRun": (None, *[POINTER] * 4, INT, POINTER, POINTER, INT, POINTER, INT, POINTER, POINTER),
    }
    for name, (result, *arguments) in types.items():
        getattr(loaded, name).restype, getattr(loaded, name).argtypes = result, arguments
    loaded._ZN10tensorflow21DisableXlaCompilationEv()
    return loaded


def signature_message():
    """The part of MetaGraphDef that names the signatures; protobuf passes the other fields over."""
    file = descriptor_pb2.FileDescriptorProto(name="signatures.proto", package="read", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    messages = {
        "TensorInfo": [("name", 1, kinds.TYPE_STRING, None), ("dtype", 2, kinds.TYPE_INT32, None)],
        "Signature": [("inputs", 1, "map", "TensorInfo"), ("outputs", 2, "map", "TensorInfo")],
        "MetaGraph": [("signature_def", 5, "map", "Signature")],
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind, value in fields:
            if kind != "map":
                message.field.add(name=field, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
                continue
            entry = message.nested_type.add(name=field.title().replace("_", "") + "Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
            of = {"type": kinds.TYPE_MESSAGE, "label": kinds.LABEL_OPTIONAL, "type_name": f".read.{value}"}
            entry.field.add(name="value", number=2, **of)
            of = {**of, "label": kinds.LABEL_REPEATED, "type_name": f".read.{name}.{entry.name}"}
            message.field.add(name=field, number=number, **of)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("read.MetaGraph"))


class Model:
    """A SavedModel that was loaded by TF_LoadSessionFromSavedModel."""

    def __init__(self, tensorflow, folder):
        self.tensorflow, self.status, self.graph = tensorflow, tensorflow.TF_NewStatus(), tensorflow.TF_NewGraph()
        tags, meta_graph = (TEXT * 1)(b"serve"), tensorflow.TF_NewBuffer()
        options = tensorflow.TF_NewSessionOptions()
        self.session = tensorflow.TF_LoadSessionFromSavedModel(
            options, None, folder.encode(), tags, 1, self.graph, meta_graph, self.status
        )
        if tensorflow.TF_GetCode(self.status):
            raise SystemExit(tensorflow.TF_Message(self.status).decode())
        content = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        self.signatures = signature_message().FromString(content).signature_def

    def place(self, name):
        operation, _, index = name.partition(":")
        found = self.tensorflow.TF_GraphOperationByName(self.graph, operation.encode())
        if not found:
            raise SystemExit(f"the graph has no operation {operation}")
        return Output(found, int(index or 0))

    def tensor(self, dtype, values):
        values = numpy.array(values, object if dtype == STRING else NUMBERS[dtype])
        width = TSTRING_BYTES if dtype == STRING else values.itemsize
        axes = (ctypes.c_int64 * values.ndim)(*values.shape)
        made = self.tensorflow.TF_AllocateTensor(dtype, axes, values.ndim, width * values.size)
        data = self.tensorflow.TF_TensorData(made)
        if dtype != STRING:
            ctypes.memmove(data, values.tobytes(), values.nbytes)
        for row, text in enumerate(values.reshape(-1) if dtype == STRING else []):
            content = text.encode()
            self.tensorflow.TF_StringInit(data + TSTRING_BYTES * row)
            self.tensorflow.TF_StringCopy(data + TSTRING_BYTES * row, content, len(content))
        return made

    def values(self, made):
        shape = [self.tensorflow.TF_Dim(made, axis) for axis in range(self.tensorflow.TF_NumDims(made))]
        data, dtype = self.tensorflow.TF_TensorData(made), self.tensorflow.TF_TensorType(made)
        if dtype != STRING:
            content = ctypes.string_at(data, self.tensorflow.TF_TensorByteSize(made))
            return numpy.frombuffer(content, NUMBERS[dtype]).reshape(shape).tolist()
        texts = []
        for row in range(int(numpy.prod(shape))):
            at = data + TSTRING_BYTES * row
            pointer, size = self.tensorflow.TF_StringGetDataPointer(at), self.tensorflow.TF_StringGetSize(at)
            texts.append(ctypes.string_at(pointer, size).decode())
        return numpy.array(texts, object).reshape(shape).tolist()

    def answer(self, request):
        signature = self.signatures[request["signature"]]
        names, asked = list(signature.outputs), request["inputs"]
        dtypes = {name: request.get("dtype", signature.inputs[name].dtype) for name in asked}
        feeds = (Output * len(asked))(*(self.place(signature.inputs[name].name) for name in asked))
        fed = (POINTER * len(asked))(*(self.tensor(dtypes[name], values) for name, values in asked.items()))
        fetches = (Output * len(names))(*(self.place(signature.outputs[name].name) for name in names))
        fetched = (POINTER * len(names))()
        counts = len(asked), len(names)
        self.tensorflow.TF_SessionRun(
            *(self.session, None, feeds, fed, counts[0], fetches, fetched, counts[1], None, 0, None, self.status)
        )
        code = CODES.get(self.tensorflow.TF_GetCode(self.status), "another")
        if code != "OK":
            return {"status": code, "message": self.tensorflow.TF_Message(self.status).decode(errors="replace")}
        outputs = {name: self.values(made) for name, made in zip(names, fetched, strict=True)}
        for made in [*fed, *fetched]:
            self.tensorflow.TF_DeleteTensor(made)
        return outputs


def main(tensorflow, folder, requests):
    model = Model(tensorflow, folder)
    return {
        "signatures": sorted(name for name in model.signatures if not name.startswith("__")),
        "answers": [model.answer(request) for request in requests],
        "imported": sorted({"tensorflow", "keras", "keras_transformer"} & set(sys.modules)),
    }


if __name__ == "__main__":
    opened = library()
    for folder, requests in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        with open(requests, encoding="utf-8") as file:
            print(json.dumps(main(opened, folder, json.load(file))))
