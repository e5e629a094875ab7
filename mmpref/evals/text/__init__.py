"""Reading answers: yes or no, and the objects that a caption mentions."""
