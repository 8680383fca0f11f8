"""One tfds builder per built-in data set; importing this package registers them with `tfds.load`."""

from keras_transformer.data.catalog.english_german import (
    EnglishGerman,
    EnglishGermanPairs,
    english_german,
    manual_page_pairs,
    message_pairs,
    messages_in,
)
from keras_transformer.data.catalog.movie_snippets import MovieSnippets, Snippets, snippets
from keras_transformer.data.catalog.world_english_bible import Bible, WorldEnglishBible, world_english_bible

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
