"""Pruning by hand, in float64 numpy: one dense product, squared errors, plain SGD. Knows nothing of the package."""

import numpy as np


def gradients(kernel, bias, x, y):
    """Of the mean of (x W + b - y)^2 over rows and columns, with respect to W and b."""
    error = 2 * (x @ kernel + bias - y) / y.size
    return np.einsum("ri,ro->io", x, error), error.sum(axis=0)


def cubic(step, final, begin, end, initial=0.0):
    """Zhu and Gupta 2017, eq. 1, at one of its steps."""
    past = (step - begin) / (end - begin)
    return final + (initial - final) * (1 - past) ** 3


def without_lowest(scores, count):
    """True but at the `count` lowest scores, found one by one."""
    stays = np.ones(scores.shape, bool)
    for _ in range(count):
        lowest = min((scores[place], place) for place in np.ndindex(scores.shape) if stays[place])
        stays[lowest[1]] = False
    return stays


def magnitude_run(kernel, bias, x, y, rates, zeros):
    """The kernel and bias after len(rates) steps; `zeros` says at which steps how many weights go."""
    kernel, bias, stays = kernel.astype("float64"), bias.astype("float64"), np.ones(kernel.shape, bool)
    for step in range(len(rates) + 1):
        if step in zeros:
            stays = without_lowest(np.abs(kernel), zeros[step])
            kernel = kernel * stays
        if step < len(rates):
            of_kernel, of_bias = gradients(kernel, bias, x, y)
            kernel, bias = (kernel - rates[step] * of_kernel) * stays, bias - rates[step] * of_bias
    return kernel, bias


def movement_run(kernel, bias, x, y, rates, zeros, momentum=0.0):
    """As `magnitude_run`, by scores and with momentum; also gives the scores, and all masks in their order.

    W is the whole kernel: the forward pass sees W * M, W is stepped where M is 1, scores everywhere.
    """
    kernel, bias = kernel.astype("float64"), bias.astype("float64")
    scores, stays, masks = np.zeros(kernel.shape), np.ones(kernel.shape, bool), []
    of_kernel, of_bias = np.zeros(kernel.shape), np.zeros(bias.shape)  # speeds
    for step in range(len(rates) + 1):
        if step in zeros:
            stays = without_lowest(scores, zeros[step])
            masks.append(stays)
        if step < len(rates):
            slopes = gradients(kernel * stays, bias, x, y)
            scores = scores - rates[step] * slopes[0] * kernel
            of_kernel = momentum * of_kernel - rates[step] * slopes[0] * stays
            of_bias = momentum * of_bias - rates[step] * slopes[1]
            kernel, bias = kernel + of_kernel * stays, bias + of_bias
    return kernel * stays, bias, scores, masks
