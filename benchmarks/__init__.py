"""What dgan costs, against what a user would otherwise run and against the limit."""
