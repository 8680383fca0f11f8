"""One model teaches the next: teacher assistants and born-again networks."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import keras


def distil_chain(
    models: Sequence[keras.Model], fit_one: Callable[[keras.Model, keras.Model], object]
) -> list[keras.Model]:
    """Call fit_one(models[0], models[1]), then fit_one(models[1], models[2]), and so on: teacher, student.

    With a model of middle size between a large teacher and a small student, that is the teacher assistant of Mirzadeh
    et al. 2020. With a teacher and students all of one size it is a born-again network (Furlanello et al.
    2018, section 3), whose generations together make the ensemble of their section 3.1:

    >>> def fit_one(teacher, student):
    ...     distiller = Distiller(student, teacher, terms)
    ...     distiller.compile("adam")
    ...     distiller.fit(x, labels, epochs=3)
    >>> distil_chain([large, middle, small], fit_one)
    >>> generations = distil_chain([teacher, fresh(), fresh()], fit_one)
    >>> ensemble = SeveralTeachers(generations)

    Args:
        models: the trained teacher first, then the students in the order in which they are taught. Each is a model
            of its own: for self-distillation clone it, which gives fresh weights.
        fit_one: trains its second argument on its first.

    Returns:
        The students, all trained, the last one last.

    Raises:
        ValueError: if there are fewer than two models, or one stands twice: it would be its own teacher.
    """
    if len(models) < 2:
        raise ValueError(f"models has {len(models)}: a chain needs a teacher and a student. Give two or more.")
    for place, model in enumerate(models):
        if any(model is other for other in models[:place]):
            raise ValueError(
                f"models[{place}], {model.name!r}, stands twice: it would train while it teaches. Give a model "
                "of its own: copy = keras.models.clone_model(model), which has fresh weights, and to start from the "
                "same ones copy.set_weights(model.get_weights())."
            )
    for teacher, student in pairwise(models):
        fit_one(teacher, student)
    return list(models[1:])
