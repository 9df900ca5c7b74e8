"""The training lab: small byte-level language models on real text, trained and compared by recipe."""
