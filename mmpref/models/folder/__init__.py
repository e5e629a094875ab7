"""What is in a model folder, looked at before and while it is loaded."""
