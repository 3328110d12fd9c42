"""Models made from nothing: their sizes, their tokenizer."""
