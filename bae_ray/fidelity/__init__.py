"""What a language model still knows when a run's reconstruction takes the place of its activations."""
