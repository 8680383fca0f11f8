"""Whole jobs as plain functions: data in, models and files out. The command line calls these and nothing below them."""
