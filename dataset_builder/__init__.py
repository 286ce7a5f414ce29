"""Reports in, a synthetic chest-radiograph dataset out."""
