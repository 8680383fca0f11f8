"""Knowledge distillation: any teacher, any student, losses as values.

>>> distiller = Distiller(student, teacher, terms=[
...     LossTerm("true_labels", 0.3, true_labels),
...     LossTerm("soft_targets", 0.7, soft_targets(temperature=4.0)),
... ])
>>> distiller.compile("adam", metrics=["accuracy"])
>>> distiller.fit(x, labels)
>>> distiller.student.save("student.keras")
"""

from keras_transformer.distillation.distiller import Distiller
from keras_transformer.distillation.interpolation import Interpolation, interpolate
from keras_transformer.distillation.layer_map import (
    LayerMap,
    LayerPair,
    every_k,
    given,
    last_k,
    layer_count,
    named_pairs,
    tap_pairs,
    uniform,
)
from keras_transformer.distillation.losses import soft_targets, true_labels
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.progressive import Stage, distil_in_stages, layerwise_stages
from keras_transformer.distillation.schedules import Schedule, Scheduled, cosine, linear, step
from keras_transformer.distillation.taps import with_taps
from keras_transformer.distillation.teachers import RecordedTeacher, Teacher
from keras_transformer.distillation.terms import LossTerm, Needs, needing
from keras_transformer.distillation.uncertainty import UncertaintyWeighting

__all__ = [
    "Distiller",
    "Interpolation",
    "LayerMap",
    "LayerPair",
    "LossTerm",
    "Needs",
    "Outputs",
    "RecordedTeacher",
    "Schedule",
    "Scheduled",
    "Stage",
    "Teacher",
    "UncertaintyWeighting",
    "cosine",
    "distil_in_stages",
    "every_k",
    "given",
    "interpolate",
    "last_k",
    "layer_count",
    "layerwise_stages",
    "linear",
    "named_pairs",
    "needing",
    "soft_targets",
    "step",
    "tap_pairs",
    "true_labels",
    "uniform",
    "with_taps",
]
