"""`bintally agent doctor`: is everything there that the agent needs, and what to do where it is not."""
