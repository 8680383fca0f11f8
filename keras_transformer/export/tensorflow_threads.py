"""How many threads TensorFlow uses in this process. Imports it only where a number is asked for."""

from keras_transformer.checks import UserError


def use_threads(threads: int | None) -> None:
    """Let TensorFlow use so many threads; None = its own choice.

    Raises:
        UserError: if TensorFlow already runs in this process with another number of threads.
    """
    if threads is None:
        return
    import tensorflow as tf

    threading = tf.config.threading
    try:
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise UserError(
            f"threads={threads}: TensorFlow already runs in this process with "
            f"{threading.get_intra_op_parallelism_threads() or 'its own number of'} threads, and that can't change. "
            "Load the model before any other TensorFlow work, or in a new process."
        ) from error
