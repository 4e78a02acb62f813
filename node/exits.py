"""Exit statuses of every command, and what the launcher does with a node that ends with one."""

EXIT_OK = 0
"""Done, or stopped on request with everything saved."""
EXIT_FAILURE = 1
"""Failed at work; a node is restarted."""
EXIT_INPUT = 2
"""Wrong usage or input; a node is never restarted."""
EXIT_TEMPORARY = 75
"""Trying again later may help; a node is restarted."""
EXIT_INTERRUPTED = 130
"""Ctrl-C."""
