"""The paper's experiments: a room for each, with its config, presets, computing and report."""
