"""The command line: parses the words, sets up logging, and runs one of `node.commands`.

`main` is the entry point; it imports a command's module when that command is chosen. `help_text`
makes `--help` a manual page, `arguments` has the arguments that several commands share, and
`exit_codes` the codes that they end with. Everything runs on the main thread.
"""
