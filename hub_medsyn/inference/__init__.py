"""What a trained model is used for: reading films, finding reports, showing where a word is."""
