"""What Dayfly promises of speed and size, measured beside a peer in the same process tree: `make bench`."""
