"""The command line: options, output, exit codes and the commands. The work is done in the other rooms."""
