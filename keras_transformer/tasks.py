"""What a model can be trained for: the names that the command line and the run folders have for it."""

CLASSIFY = "classify"
TRANSLATE = "translate"
LANGUAGE_MODEL = "language-model"
TASKS = (CLASSIFY, TRANSLATE, LANGUAGE_MODEL)
