"""Hydra configuration: `config.yaml` and one folder per config group."""
