"""In-context learning: accuracy and entropy over the number of demonstrations (the paper's Fig. 4 and 7)."""
