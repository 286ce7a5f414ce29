"""What a trained model is used for: reading images, finding reports, showing where a word is."""
