"""The command line: options, output, exit codes and commands. The other rooms do the work."""
