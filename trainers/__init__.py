"""Trainers for the vision-language methods and the downstream measurements."""
