"""Ways to make a trained network smaller, each usable alone and free of any task."""

from keras_transformer.compression.low_rank import Factors, factorise
from keras_transformer.compression.units import unit_importance
from keras_transformer.compression.vocabulary import CutVocabulary, count_pieces, cut_vocabulary

__all__ = ["CutVocabulary", "Factors", "count_pieces", "cut_vocabulary", "factorise", "unit_importance"]
