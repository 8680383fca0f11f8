"""Knowledge distillation: any teacher, any student, losses as values.

>>> distiller = Distiller(student, teacher, terms=[
...     LossTerm("true_labels", 0.3, true_labels),
...     LossTerm("soft_targets", 0.7, soft_targets(temperature=4.0)),
... ])
>>> distiller.compile("adam", metrics=["accuracy"])
>>> distiller.fit(x, labels)
>>> distiller.student.save("student.keras")
"""

from keras_transformer.distillation.attention_losses import attention_divergence, attention_maps, attention_scores
from keras_transformer.distillation.chains import distil_chain
from keras_transformer.distillation.distiller import Distiller
from keras_transformer.distillation.divergences import jensen_shannon, reverse_targets
from keras_transformer.distillation.feature_losses import (
    embedding_states,
    hidden_cosine,
    hidden_states,
    hint,
    patient_states,
)
from keras_transformer.distillation.interpolation import Interpolation, interpolate
from keras_transformer.distillation.label_row_losses import (
    soft_multi_labels,
    teacher_values,
    true_multi_labels,
    true_values,
)
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
from keras_transformer.distillation.mutual_learning import MutualLearner
from keras_transformer.distillation.on_policy import OnPolicyDistiller, OwnSamples
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.pooled_losses import contrastive, similarity_preserving
from keras_transformer.distillation.progressive import Stage, distil_in_stages, layerwise_stages
from keras_transformer.distillation.relation_losses import relations, value_relations
from keras_transformer.distillation.schedules import Schedule, Scheduled, cosine, linear, step
from keras_transformer.distillation.several_teachers import SeveralTeachers, confidence
from keras_transformer.distillation.taps import with_taps
from keras_transformer.distillation.teacher_cache import CachedTeacher, cache_teacher
from keras_transformer.distillation.teachers import RecordedTeacher, Teacher
from keras_transformer.distillation.terms import LossTerm, Needs, needing
from keras_transformer.distillation.top_k import top_k_soft_targets
from keras_transformer.distillation.uncertainty import UncertaintyWeighting

__all__ = [
    "CachedTeacher",
    "Distiller",
    "Interpolation",
    "LayerMap",
    "LayerPair",
    "LossTerm",
    "MutualLearner",
    "Needs",
    "OnPolicyDistiller",
    "Outputs",
    "OwnSamples",
    "RecordedTeacher",
    "Schedule",
    "Scheduled",
    "SeveralTeachers",
    "Stage",
    "Teacher",
    "UncertaintyWeighting",
    "attention_divergence",
    "attention_maps",
    "attention_scores",
    "cache_teacher",
    "confidence",
    "contrastive",
    "cosine",
    "distil_chain",
    "distil_in_stages",
    "embedding_states",
    "every_k",
    "given",
    "hidden_cosine",
    "hidden_states",
    "hint",
    "interpolate",
    "jensen_shannon",
    "last_k",
    "layer_count",
    "layerwise_stages",
    "linear",
    "named_pairs",
    "needing",
    "patient_states",
    "relations",
    "reverse_targets",
    "similarity_preserving",
    "soft_multi_labels",
    "soft_targets",
    "step",
    "tap_pairs",
    "teacher_values",
    "top_k_soft_targets",
    "true_labels",
    "true_multi_labels",
    "true_values",
    "uniform",
    "value_relations",
    "with_taps",
]
