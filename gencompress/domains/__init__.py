"""Plug-ins: what is prunable in a family of models, and how its quality is judged."""
