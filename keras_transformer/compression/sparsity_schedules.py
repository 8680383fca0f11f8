"""How sparse a model is to be after how many steps."""

from numbers import Integral

from keras_transformer.checks import fraction
from keras_transformer.distillation.schedules import Schedule


def cubic_sparsity(final: float, begin: int, end: int, initial: float = 0.0) -> Schedule:
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3: Zhu and Gupta 2017, eq. 1, with n dt = t_1 - t_0.

    Fast while much can go, slow near the end. 0 before `begin`, and s_f from `end` on. Sanh et al. 2020
    have the same curve with a cool-down: `end` is then the last step but their t_f, so that the model can recover.

    Args:
        final: s_f, the share of zeros in the end: at least 0 and below 1.
        begin: t_0, the first step at which weights go.
        end: t_1, from which on no more go; as `begin`, all go at once.
        initial: s_i, the share that goes at `begin`.

    Raises:
        ValueError: if a share isn't in [0, 1), `initial` is above `final`, a step isn't a whole number of at least 0,
            or `end` is before `begin`.
    """
    fraction("sparsity", final)
    fraction("initial_sparsity", initial)
    if initial > final:
        raise ValueError(
            f"initial_sparsity={initial} is above sparsity={final}: weights that went don't come back. "
            f"Use initial_sparsity=0.0, or at most {final}."
        )
    for name, step in (("begin", begin), ("end", end)):
        if isinstance(step, bool) or not isinstance(step, Integral) or step < 0:
            raise ValueError(
                f"{name}={step!r} must be a whole number of steps of at least 0. Use for example {name}=0."
            )
    if end < begin:
        raise ValueError(
            f"begin={begin} comes after end={end}: pruning can't end before it begins. Use for example end={begin}, "
            "which prunes all at once, or a later step."
        )

    def share(step: int) -> float:
        if step >= end:
            return float(final)
        return final + (initial - final) * (1 - (step - begin) / (end - begin)) ** 3 if step >= begin else 0.0

    return share
