"""Chest radiographs rendered from a real CT."""
