"""Compression of hidden states beside the usual quantisers (the paper's Table 3, Appendix A.5)."""
