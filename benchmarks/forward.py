"""What a forward pass of MiniLM costs: ours, KerasHub's layers, and Hugging Face's BERT on PyTorch.

Command: python benchmarks/forward.py --torch-python PATH     (the machine must do nothing else)
Needs:   pip install torch transformers safetensors for the interpreter PATH, best in an environment of its own.
Writes:  benchmarks/results/forward.md

8 rows of 128 tokens without padding. bfloat16 is all of it on all sides: weights too.
"""

import argparse

from encoder_rounds import Encoder, arguments, compare

MINILM = Encoder(num_layers=6, model_dim=384, num_heads=12, inner_dim=1536, vocab_size=30_522, length=128, batch=8)

if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    compare("forward", "What a forward pass costs", "forward", MINILM, 1, arguments(words))
