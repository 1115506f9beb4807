"""Steering by features (the paper's Fig. 6): vectors that stand for demonstrations, beside controls."""
