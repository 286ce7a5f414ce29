"""Jinja templates of the dataset and checkpoint cards, shipped as package data."""
