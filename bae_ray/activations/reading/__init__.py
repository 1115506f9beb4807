"""Reading the files of a corpus, by one set of rules for all formats (docs/corpora.md)."""
