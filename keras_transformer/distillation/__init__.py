"""Knowledge distillation: any teacher, any student, losses as values.

>>> distiller = Distiller(student, teacher, terms=[
...     LossTerm("true_labels", 0.3, true_labels),
...     LossTerm("soft_targets", 0.7, soft_targets(temperature=4.0)),
... ])
>>> distiller.compile("adam", metrics=["accuracy"])
>>> distiller.fit(x, labels)
>>> distiller.student.save("student.keras")
"""

from keras_transformer.distillation.chains import distil_chain
from keras_transformer.distillation.distiller import Distiller
from keras_transformer.distillation.losses import soft_targets, true_labels
from keras_transformer.distillation.mutual_learning import MutualLearner
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.several_teachers import SeveralTeachers, confidence
from keras_transformer.distillation.taps import with_taps
from keras_transformer.distillation.teacher_cache import CachedTeacher, cache_teacher
from keras_transformer.distillation.teachers import RecordedTeacher, Teacher
from keras_transformer.distillation.terms import LossTerm, Needs, needing
from keras_transformer.distillation.top_k import top_k_soft_targets

__all__ = [
    "CachedTeacher",
    "Distiller",
    "LossTerm",
    "MutualLearner",
    "Needs",
    "Outputs",
    "RecordedTeacher",
    "SeveralTeachers",
    "Teacher",
    "cache_teacher",
    "confidence",
    "distil_chain",
    "needing",
    "soft_targets",
    "top_k_soft_targets",
    "true_labels",
    "with_taps",
]
