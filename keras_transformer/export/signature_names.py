"""The names of the signatures of an exported model: what a client asks for. They are a contract."""

DEFAULT = "serving_default"
"""Raw texts in; labels and scores out of a classifier, texts out of what writes."""

TOKENS = "tokens"
"""Token ids in, the whole model's logits out."""

ENCODE = "encode"
"""Raw texts in, one vector a text out."""

GENERATE = "generate"
"""Raw texts in, each with the most tokens that it may get; texts out."""

SEARCH = "search"
"""As GENERATE, with the best texts of a beam search out."""

GENERATE_TOKENS = "generate_tokens"
"""Token ids in, new token ids out."""
