"""Steering a language model: vectors from features and from prompts, added to its activations while it writes."""
