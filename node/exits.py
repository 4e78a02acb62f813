"""How processes tell of their end: exit statuses, what the launcher does with them, and the lifeline."""

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
LIFELINE = "DGAN_LIFELINE_FD"
"""Environment variable with the descriptor of a pipe that nobody writes to: when its other end is closed, whoever started the
node is gone, and it saves and stops."""
