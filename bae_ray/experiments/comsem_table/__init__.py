"""Methods compared by ComSem (the paper's Table 1, Table 4, Fig. 24-28)."""
