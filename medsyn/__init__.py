"""The contract that all packages share: commands, columns, policies, files, errors. No torch, no transformers."""

__version__ = "0.1.0"
