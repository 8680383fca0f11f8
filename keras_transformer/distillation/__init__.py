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
from keras_transformer.distillation.distiller import Distiller
from keras_transformer.distillation.feature_losses import (
    embedding_states,
    hidden_cosine,
    hidden_states,
    hint,
    patient_states,
)
from keras_transformer.distillation.label_row_losses import (
    soft_multi_labels,
    teacher_values,
    true_multi_labels,
    true_values,
)
from keras_transformer.distillation.losses import soft_targets, true_labels
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.pooled_losses import contrastive, similarity_preserving
from keras_transformer.distillation.relation_losses import relations, value_relations
from keras_transformer.distillation.taps import with_taps
from keras_transformer.distillation.teachers import RecordedTeacher, Teacher
from keras_transformer.distillation.terms import LossTerm, Needs, needing

__all__ = [
    "Distiller",
    "LossTerm",
    "Needs",
    "Outputs",
    "RecordedTeacher",
    "Teacher",
    "attention_divergence",
    "attention_maps",
    "attention_scores",
    "contrastive",
    "embedding_states",
    "hidden_cosine",
    "hidden_states",
    "hint",
    "needing",
    "patient_states",
    "relations",
    "similarity_preserving",
    "soft_multi_labels",
    "soft_targets",
    "teacher_values",
    "true_labels",
    "true_multi_labels",
    "true_values",
    "value_relations",
    "with_taps",
]
