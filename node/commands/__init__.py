"""One module per command of the command line, each with `HELP`, `add_arguments` and `run`.

`node.cli.main` imports the module of the command that was typed and calls `run` on the main
thread. A command may use any other package; no package uses a command.
"""
