"""Runs on real clouds: only with their credentials and DAYFLY_REAL_WORLD=1, since they cost money."""
