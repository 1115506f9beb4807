"""Measures of autoencoders and their codes. Training reports them, so they know nothing of training."""
