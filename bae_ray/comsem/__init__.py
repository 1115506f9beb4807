"""ComSem: a judge, a language model that is tested itself, names and scores features (paper, section 5.1)."""
