"""Prompt processors: texts to embeddings."""
