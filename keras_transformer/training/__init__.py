"""Losses, metrics, schedules and checkpoints: what a training run needs beside the model."""
