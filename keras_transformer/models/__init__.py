"""Models on top of the layers: Functional inside, token ids in (0 = padding), float32 logits out.

`decoding` turns what the generating ones foresee into texts.
"""

from keras_transformer.models.causal_lm import CausalLM
from keras_transformer.models.decoder_state import DecoderState, Prompted
from keras_transformer.models.decoding import (
    Beams,
    Decoded,
    Speculated,
    beam,
    diverse_beam,
    greedy,
    length_penalty,
    sample,
    speculative,
)
from keras_transformer.models.hidden_token import hidden_token
from keras_transformer.models.masked_lm import MaskedLM
from keras_transformer.models.own_samples import OwnContinuations, OwnTargets
from keras_transformer.models.seq2seq import Seq2Seq
from keras_transformer.models.sizes import (
    BASE,
    BIG,
    GPT2,
    GPT2_LARGE,
    GPT2_MEDIUM,
    GPT2_XL,
    MINILM_L6,
    SMALL,
    TINY,
    TransformerSize,
)
from keras_transformer.models.text_classifier import TextClassifier

__all__ = [
    "BASE",
    "BIG",
    "GPT2",
    "GPT2_LARGE",
    "GPT2_MEDIUM",
    "GPT2_XL",
    "MINILM_L6",
    "SMALL",
    "TINY",
    "Beams",
    "CausalLM",
    "Decoded",
    "DecoderState",
    "MaskedLM",
    "OwnContinuations",
    "OwnTargets",
    "Prompted",
    "Seq2Seq",
    "Speculated",
    "TextClassifier",
    "TransformerSize",
    "beam",
    "diverse_beam",
    "greedy",
    "hidden_token",
    "length_penalty",
    "sample",
    "speculative",
]
