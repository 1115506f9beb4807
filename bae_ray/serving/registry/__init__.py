"""The registry: a folder of encoders."""
