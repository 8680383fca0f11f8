"""What a training step of a classifier costs: ours, KerasHub's layers, and Hugging Face's BERT on PyTorch.

Command: python benchmarks/train_step.py --torch-python PATH     (the machine must do nothing else)
Needs:   pip install torch transformers safetensors for the interpreter PATH, best in an environment of its own.
Writes:  benchmarks/results/train_step.md

32 rows of 128 tokens without padding, dropout 0.1, AdamW. bfloat16 is mixed on all sides: float32 weights.
"""

import argparse

from encoder_rounds import Encoder, arguments, compare

CLASSIFIER = Encoder(num_layers=4, model_dim=256, num_heads=4, inner_dim=1024, vocab_size=8_000, length=128, batch=32)

if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    compare("train", "What a training step costs", "train_step", CLASSIFIER, 3, arguments(words))
