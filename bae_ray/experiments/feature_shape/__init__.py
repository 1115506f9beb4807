"""Whether features of a high score cluster more than those of a low one (the paper's Fig. 42 and 43)."""
