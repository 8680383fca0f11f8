"""Other libraries at the same work, each in a process of its own that talks in lines of JSON."""
