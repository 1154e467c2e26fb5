"""Stand-ins for what this computer has not: real servers, programs and libraries that behave as documented."""
