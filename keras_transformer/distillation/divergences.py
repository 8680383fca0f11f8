"""Other distances between two distributions than `soft_targets`: Agarwal et al. 2024, on-policy distillation.

On what the teacher or the data wrote, the forward divergence (`soft_targets`) makes a student cover all that its
teacher might say. On what the student itself wrote (see `Distiller`; its samples are the batches' targets) a small
student does better to leave out what it can't imitate: the reverse divergence, or one between the two.
"""

import keras
from keras import ops

from keras_transformer.checks import positive
from keras_transformer.distillation.losses import check_same_classes, kl_divergence
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.terms import Loss
from keras_transformer.layers.masks import Tensor


def reverse_targets(temperature: float | keras.Variable = 1.0) -> Loss:
    """T^2 KL(softmax(student / T) || softmax(teacher / T)): the sides of `soft_targets` exchanged.

    Agarwal et al. 2024, section 2, there at T = 1; Gu et al. 2024 too. It costs a student most where it says what its
    teacher wouldn't.

    Args:
        temperature: T, above 0. A `keras.Variable` can be changed by a callback while `fit` runs.

    Returns:
        A loss in float32; its value has shape (B,) for logits (B, C) and (B, T) for (B, T, V), at least 0.

    Raises:
        ValueError: if T isn't above 0; the loss, if student and teacher have not the same number of classes.
    """
    positive("temperature", temperature)

    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        target, guess = _scaled(student, teacher, temperature)
        return temperature**2 * kl_divergence(guess, target)

    return loss


def jensen_shannon(beta: float = 0.5, temperature: float | keras.Variable = 1.0) -> Loss:
    """T^2 (b KL(p || m) + (1 - b) KL(q || m)), m = b p + (1 - b) q: eq. 1 of Agarwal et al. 2024.

    p = softmax(teacher / T), q = softmax(student / T). Never above T^2 log 2, however far apart the sides are. Divided
    by b it becomes KL(p || q) for b towards 0, and divided by 1 - b, KL(q || p) for b towards 1.

    Args:
        beta: b, above 0 and below 1; 0.5 is symmetric.
        temperature: T, above 0. A `keras.Variable` can be changed by a callback while `fit` runs.

    Returns:
        A loss in float32; its value has shape (B,) for logits (B, C) and (B, T) for (B, T, V), at least 0.

    Raises:
        ValueError: if a number is out of its range; the loss, if student and teacher have not the same number of
            classes.
    """
    positive("temperature", temperature)
    if not 0 < beta < 1:
        raise ValueError(
            f"beta={beta!r} must be above 0 and below 1, where the two sides are mixed. Use for example beta=0.5; "
            "instead of 0 use soft_targets(temperature), instead of 1 reverse_targets(temperature)."
        )

    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        target, guess = _scaled(student, teacher, temperature)
        log_p, log_q = ops.log_softmax(target), ops.log_softmax(guess)
        mixed = ops.logaddexp(log_p + ops.log(beta), log_q + ops.log(1.0 - beta))
        return temperature**2 * (beta * kl_divergence(log_p, mixed) + (1.0 - beta) * kl_divergence(log_q, mixed))

    return loss


def _scaled(student: Outputs, teacher: Outputs, temperature: float | keras.Variable) -> tuple[Tensor, Tensor]:
    """The teacher's and the student's logits in float32, divided by the temperature."""
    check_same_classes(student.logits, teacher.logits)
    target, guess = (ops.cast(side.logits, "float32") / temperature for side in (teacher, student))
    return target, guess
