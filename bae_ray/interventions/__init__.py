"""Running a whole language model with some of its activations replaced."""
