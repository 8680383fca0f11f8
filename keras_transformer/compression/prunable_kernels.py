"""Which weights of a model are pruned, and what their axes mean."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import keras

from keras_transformer.distillation.distiller import Distiller

Which = Callable[[keras.Variable], bool] | Sequence[str] | None
"""Layer names as shell patterns, such as "encoder_*/attention/*"; a predicate of a variable; None = every kernel."""


def pruned_model(model: keras.Model) -> keras.Model:
    """The model whose weights are pruned while `model` trains: of a Distiller its student, else the model."""
    return model.student if isinstance(model, Distiller) else model


def is_kernel(variable: keras.Variable) -> bool:
    """Whether this is what a dense product or a convolution multiplies with; no embedding, bias or norm is."""
    return variable.name == "kernel" and len(variable.shape) > 1


def prunable_kernels(model: keras.Model, which: Which = None) -> list[keras.Variable]:
    """The weights of `model` that can be pruned, each once however many layers share it.

    They are trainable: frozen layers are left alone.

    Args:
        model: built. Of a `Distiller` the student's, never the teacher's nor those of a loss.
        which: patterns choose among the kernels of two axes and more, by the path of their layer; a predicate chooses
            among all weights, so that `lambda weight: weight.name in ("kernel", "table")` takes embeddings too.

    Raises:
        ValueError: if nothing is left to prune, or a pattern fits no layer that has a kernel.
    """
    trained = pruned_model(model)
    weights = list({id(weight): weight for weight in trained.trainable_weights}.values())
    kernels = [weight for weight in weights if is_kernel(weight)]
    if callable(which):
        kernels = [weight for weight in weights if which(weight)]
    elif which is not None:
        kernels = _matching(trained.name, kernels, which)
    if not kernels:
        raise ValueError(
            f"model {trained.name!r} has no weight to prune among {[weight.path for weight in weights]}. Pruned are "
            "trainable weights called 'kernel' of two axes and more; choose others with a predicate, "
            "which=lambda weight: ..."
        )
    return kernels


def input_axes(model: keras.Model, kernel: keras.Variable) -> tuple[int, ...]:
    """The axes of a kernel that its product sums over: 0 of a matrix, those of an EinsumDense by its equation.

    Raises:
        ValueError: if it isn't known, as of a convolution's kernel.
    """
    for layer in pruned_model(model)._flatten_layers():
        if isinstance(layer, keras.layers.EinsumDense) and layer.kernel is kernel:
            summed, made = layer.equation.split(",")[1].split("->")
            return tuple(axis for axis, letter in enumerate(summed) if letter not in made)
    if len(kernel.shape) != 2:
        raise ValueError(
            f"{kernel.path} has the shape {tuple(kernel.shape)}, and which of its axes are inputs is known of matrices "
            "and of EinsumDense only. Leave it out: which=[...] names the layers to prune."
        )
    return (0,)


def _matching(model_name: str, kernels: Sequence[keras.Variable], patterns: Sequence[str]) -> list[keras.Variable]:
    if isinstance(patterns, str):
        raise TypeError(f"which={patterns!r} must be a list of patterns. Use which=[{patterns!r}].")
    # Keras puts the name of a Sequential model before those of its layers.
    layers = {id(kernel): kernel.path.removeprefix(f"{model_name}/").rpartition("/")[0] for kernel in kernels}
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers.values()):
            raise ValueError(
                f"which has {pattern!r}, which fits none of the layers with kernels: {sorted(set(layers.values()))}. "
                "Use their names, with * for any part."
            )
    return [kernel for kernel in kernels if any(fnmatchcase(layers[id(kernel)], pattern) for pattern in patterns)]
