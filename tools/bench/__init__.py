"""`make bench`: what the stack does with a kernel peer, as a table and as JSON."""
