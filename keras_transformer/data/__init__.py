"""Raw things into batches of numbers: assets, tokenizers, tables of text, batching, and a catalogue of data sets."""
