"""The Gradio page of the project, deployable as it is."""
