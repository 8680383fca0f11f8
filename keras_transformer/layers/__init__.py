"""Keras layers of the Transformer. They know no task, no loss, no file and no tokenizer.

Letters in the shape comments: B batch, T queries (or time), S keys, H heads, D model width, d width of one head,
F inner width of the feed-forward part, V vocabulary.

Masks are boolean, True = may attend, made by the functions in `masks` and passed explicitly.
"""

from keras_transformer.layers.attention import Attended, MultiHeadAttention, attention_weights
from keras_transformer.layers.embeddings import SegmentEmbedding, TokenEmbedding
from keras_transformer.layers.encoder import Encoded, Encoder, EncoderLayer
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.masks import causal_mask, padding_mask
from keras_transformer.layers.pooling import FirstTokenPooling, MeanPooling
from keras_transformer.layers.positions import LearnedPositions, PositionalEncoding, sinusoidal_positions

__all__ = [
    "Attended",
    "Encoded",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "FirstTokenPooling",
    "LearnedPositions",
    "MeanPooling",
    "MultiHeadAttention",
    "PositionalEncoding",
    "SegmentEmbedding",
    "TokenEmbedding",
    "attention_weights",
    "causal_mask",
    "padding_mask",
    "sinusoidal_positions",
]
