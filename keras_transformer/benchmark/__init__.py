"""What an answer costs: latency at batch 1, memory, bytes and parameters of any model we write.

Every figure is for a text that goes in and a label or a text that comes out, so tokenising is part of it.
"""

from keras_transformer.benchmark.child_process import Runtime
from keras_transformer.benchmark.measuring import Measurement, in_one_thread, measure
from keras_transformer.benchmark.sample_texts import SAMPLE_TEXTS
from keras_transformer.benchmark.this_machine import machine
from keras_transformer.benchmark.timing import Latency, latency

__all__ = ["SAMPLE_TEXTS", "Latency", "Measurement", "Runtime", "in_one_thread", "latency", "machine", "measure"]
