"""The command line: one file per verb. Composes everything; nothing imports it."""
