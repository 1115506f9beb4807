"""Running a whole language model with its activations replaced at some place."""
