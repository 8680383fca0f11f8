"""Strings that can be written as UTF-8: what a tokenizer, TensorFlow and a file need."""


def well_formed(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD; a pair of them becomes the character that it means."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
