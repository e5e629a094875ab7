"""What this process is to the outside: its standard output, the signals it is sent, its children, and the warnings that
it shows. Loads nothing but Python's own library."""
