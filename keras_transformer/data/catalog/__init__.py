"""One tfds builder per built-in data set; importing this package registers them with `tfds.load`."""

from keras_transformer.data.catalog.bible import Bible, WorldEnglishBible, world_english_bible
from keras_transformer.data.catalog.english_german_pairs import (
    EnglishGerman,
    EnglishGermanPairs,
    english_german,
    manual_page_pairs,
    message_pairs,
    messages_in,
)
from keras_transformer.data.catalog.movie_snippets import MovieSnippets, Snippets, snippets

__all__ = [
    "Bible",
    "EnglishGerman",
    "EnglishGermanPairs",
    "MovieSnippets",
    "Snippets",
    "WorldEnglishBible",
    "english_german",
    "manual_page_pairs",
    "message_pairs",
    "messages_in",
    "snippets",
    "world_english_bible",
]
