"""Files that stand beside those of `dayfly.infra.providers` while a test lasts."""
