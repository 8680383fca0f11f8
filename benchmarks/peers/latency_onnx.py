"""The same classifier in ONNX Runtime, exported from PyTorch: in float32, and with weights quantised to int8."""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from peers.latency_torch import Classifier
from peers.single_texts import timed_calls

PACKAGES = ("onnxruntime", "onnx", "torch")


def answers(form: str, threads: str) -> dict[str, Any]:
    """`form` is "float32" or "int8": dynamic, a scale an output channel, as its documentation advises for BERT."""
    known: dict[str, Any] = {}

    def load(folder: str) -> dict[str, Any]:
        size = json.loads((Path(folder) / "size.json").read_text())
        model = Classifier(size, str(Path(folder) / "weights.safetensors")).eval()
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "float32.onnx"
            sample = torch.ones((1, size["max_length"]), dtype=torch.int64)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's, about itself
                torch.onnx.export(
                    model, (sample,), path, input_names=["token_ids"], output_names=["logits"], dynamo=False
                )
            if form == "int8":
                ready, made = Path(work) / "ready.onnx", Path(work) / "int8.onnx"
                quant_pre_process(path, ready)
                quantize_dynamic(ready, made, weight_type=QuantType.QInt8, per_channel=True)
                path = made
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
            known["session"] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            return {"bytes": path.stat().st_size}

    def run(token_ids: list[list[int]]) -> dict[str, Any]:
        return timed_calls(lambda row: known["session"].run(None, {"token_ids": row})[0], token_ids)

    return {"load": load, "run": run}
