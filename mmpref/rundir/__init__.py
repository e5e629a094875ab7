"""The run folder: its files, who may write to it, what is refused."""
