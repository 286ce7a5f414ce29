"""Real radiographs, from the layout of their official downloads."""
