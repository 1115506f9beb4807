"""Training one autoencoder on one cell, sweeps of many, and the tables of their results."""
