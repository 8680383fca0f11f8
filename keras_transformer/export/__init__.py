"""Write a trained Keras model for TensorFlow Serving and for phones, and prove that it still gives the same answers.

Importing this package imports neither TensorFlow nor Keras; `saved_model` and `tflite` do when they are called.
"""

from keras_transformer.export.mixed_bits import mixed_bits
from keras_transformer.export.parity import ExportReport, Parity, ParityError, compare
from keras_transformer.export.saved_model import saved_model
from keras_transformer.export.tflite import QUANTIZATIONS, tflite
from keras_transformer.export.writing_parity import WritingReport
from keras_transformer.export.writing_saved_model import saved_model_writer
from keras_transformer.export.writing_tflite import tflite_writer

__all__ = [
    "QUANTIZATIONS",
    "ExportReport",
    "Parity",
    "ParityError",
    "WritingReport",
    "compare",
    "mixed_bits",
    "saved_model",
    "saved_model_writer",
    "tflite",
    "tflite_writer",
]
