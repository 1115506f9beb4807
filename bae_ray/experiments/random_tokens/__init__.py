"""Random sequences of known entropy (the paper's Fig. 11, Appendix B)."""
