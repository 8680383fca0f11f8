"""A language of 320 sentences with their translations, in which every word matters, for tests of the recipes."""

import csv
import itertools

import numpy as np

SUBJECTS = {"the dog": "der Hund", "the cat": "die Katze", "a child": "ein Kind", "an old man": "ein alter Mann"}
VERBS = {"sees": "sieht", "likes": "mag", "finds": "findet", "hears": "hört", "calls": "ruft"}
OBJECTS = {"a house": "ein Haus", "the water": "das Wasser", "a book": "ein Buch", "two birds": "zwei Vögel"}
TIMES = {"today": "heute", "now": "jetzt", "again": "wieder", "often": "oft"}


def sentence_pairs(number: int, seed: int = 3) -> list[tuple[str, str]]:
    """So many different (English, German), drawn."""
    every = [
        (
            " ".join((subject, verb, thing, time)) + ".",
            " ".join((SUBJECTS[subject], VERBS[verb], TIMES[time], OBJECTS[thing])) + ".",
        )
        for subject, verb, thing, time in itertools.product(SUBJECTS, VERBS, OBJECTS, TIMES)
    ]
    return [every[row] for row in np.random.default_rng(seed).permutation(len(every))[:number]]


def write_columns(path, **columns):
    """A CSV file with these columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path
