"""From texts to activation stores: corpora, language models, the on-disk layout, the Ray Data pipeline."""
