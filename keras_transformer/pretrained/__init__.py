"""Weights that were made elsewhere, in and out: nothing here knows our model classes."""
