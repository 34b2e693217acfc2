"""The command line. Each command is a module of its own and imports what it needs inside its function."""
