"""Sets of known entropy (the paper's section 4.1: Fig. 2, 12 and 29-34)."""
