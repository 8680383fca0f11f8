"""Random weights into any layer, and its weights out as float64 arrays by name. Knows numpy only."""

import numpy as np


def randomise(layer, seed=3, scale=0.5):
    """Give each float weight random values, biases and norms too: zeros and ones would hide a wrong place."""
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        if "int" not in str(weight.dtype):
            weight.assign(random.normal(scale=scale, size=weight.shape))
    return layer


def by_name(layer):
    """`query/kernel` and so on, without the name of the layer itself in front."""
    return {
        weight.path.removeprefix(f"{layer.name}/"): np.asarray(weight.numpy(), dtype="float64")
        for weight in layer.weights
    }


def normal(*shape, seed=11, scale=1.0):
    """Random float32 inputs."""
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype("float32")
