"""The command line: one module per group of commands; each parses, builds and calls one function."""
