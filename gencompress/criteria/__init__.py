"""Importance criteria and mask learners, one file each."""
