"""What is timed when no data are given."""

SAMPLE_TEXTS = (
    "a delight",
    "too long by half",
    "the jokes fall flat and keep falling",
    "warm, funny and beautifully acted from the first scene to the last",
    "i laughed twice , both times at the wrong moment",
    "nobody in this film behaves like a person , and after an hour you stop hoping that anyone will",
    "a small film about a small town that somehow holds the whole world",
    "the camera loves her , the script does not",
    "two hours of explosions in search of a story",
    "what begins as a heist turns , slowly and cleverly , into a film about forgiveness",
    "it is not bad so much as it is absent : scenes arrive , people talk , scenes leave",
    "the ending alone is worth the ticket",
    "he has made this film before , and better , and with more money , and still one cannot look away from it",
    "clumsy dialogue , wooden acting and a score that tells you what to feel every single minute",
    "an honest , patient documentary that trusts its viewers",
    "fans of the book will be furious , and everybody else will be asleep",
    "never has a chase across roof tops been so dull",
    "the young lead gives the performance of the year in a film that deserves her",
    "if you can forgive the first twenty minutes , what follows is a sharp , sad and very funny look at a "
    "family that cannot stop lying to itself , played by a cast without a single weak link",
    "skip it",
)
"""Film reviews written for this file, two to forty words long."""
