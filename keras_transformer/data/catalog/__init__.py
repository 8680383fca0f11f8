"""One tfds builder per built-in data set; importing this package registers them with `tfds.load`."""

from keras_transformer.data.catalog.movie_snippets import MovieSnippets, Snippets, snippets

__all__ = ["MovieSnippets", "Snippets", "snippets"]
