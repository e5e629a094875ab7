"""The one step that downloads images."""
