"""How long a translation may become. Imports no TensorFlow."""

from keras_transformer.checks import UserError

MOST_WRITTEN = 1024  # tokens, unless the model learned on longer texts: a cache has room for all of them


def translation_room(max_length: int, max_tokens: int | None) -> int:
    """The most tokens of a translation: those asked for, or the `max_length` that the model learned on.

    Raises:
        UserError: if more are asked for than a cache should hold.
    """
    limit = max(MOST_WRITTEN, max_length)
    if max_tokens is not None and max_tokens > limit:
        raise UserError(
            f"--max-tokens {max_tokens}: a translator writes up to {limit} word pieces, and this one learned on texts "
            f"of up to {max_length}. Use {limit} or less."
        )
    return max_tokens or max_length
