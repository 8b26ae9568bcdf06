"""Segment Anything: the image encoders of transformers' SamModel."""
