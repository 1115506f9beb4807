"""The replicas that compute: encoders, and the language models of texts."""
