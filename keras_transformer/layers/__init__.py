"""Keras layers of the Transformer. They know no task, no loss, no file and no tokenizer.

Letters in the shape comments: B batch, T queries (or time), S keys, H heads, G key/value heads, D model width,
d width of one head, F inner width of the feed-forward part, V vocabulary, K new tokens.

Masks are boolean, True = may attend, made by the functions in `masks` and passed explicitly.
"""

from keras_transformer.layers.attention import Attended, MultiHeadAttention, attention_weights
from keras_transformer.layers.cache import KeyValues, empty_key_values
from keras_transformer.layers.decoder import CausalMask, Decoder
from keras_transformer.layers.decoder_layer import DecoderLayer, DecoderOutputs
from keras_transformer.layers.embeddings import SegmentEmbedding, TokenEmbedding
from keras_transformer.layers.encoder import Encoded, Encoder, EncoderLayer
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.integer_policy import IntegerPolicy
from keras_transformer.layers.linear_biases import LinearBiases, alibi_biases, alibi_slopes
from keras_transformer.layers.low_rank_dense import LowRankDense
from keras_transformer.layers.masks import cache_mask, causal_mask, padding_mask, prefix_mask, sliding_window_mask
from keras_transformer.layers.pooling import FirstTokenPooling, MeanPooling
from keras_transformer.layers.positions import LearnedPositions, PositionalEncoding, sinusoidal_positions
from keras_transformer.layers.rotary import RotaryPositions, rotary_table, rotate
from keras_transformer.layers.token_bias import TokenBias

__all__ = [
    "Attended",
    "CausalMask",
    "Decoder",
    "DecoderLayer",
    "DecoderOutputs",
    "Encoded",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "FirstTokenPooling",
    "IntegerPolicy",
    "KeyValues",
    "LearnedPositions",
    "LinearBiases",
    "LowRankDense",
    "MeanPooling",
    "MultiHeadAttention",
    "PositionalEncoding",
    "RotaryPositions",
    "SegmentEmbedding",
    "TokenBias",
    "TokenEmbedding",
    "alibi_biases",
    "alibi_slopes",
    "attention_weights",
    "cache_mask",
    "causal_mask",
    "empty_key_values",
    "padding_mask",
    "prefix_mask",
    "rotary_table",
    "rotate",
    "sinusoidal_positions",
    "sliding_window_mask",
]
