"""Measures of autoencoders and their codes. Training reports them, so they do not import training."""
