"""What a language model still predicts when a run's reconstruction takes the place of its activations."""
