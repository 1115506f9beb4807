"""Entropy by layer and token position (the paper's Fig. 3, section 4.2)."""
