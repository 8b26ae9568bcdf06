"""Bundled sample models and scenes, their credits and the programs that made them."""
