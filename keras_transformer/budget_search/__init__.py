"""The smallest, fastest `.tflite` file of a trained classifier that keeps its accuracy: `keras-transformer compress`.

What to cut is ranked by what each cut alone does to the teacher's answers, untrained; a few candidates that fit into
bytes and time, as written and measured, learn from the teacher for a short while; the best of them in full.
"""
