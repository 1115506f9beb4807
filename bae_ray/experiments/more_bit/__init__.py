"""More-bit decoding (the paper's Table 2), firing rates (Fig. 5, 39-41) and magnitudes (Fig. 35-38)."""
