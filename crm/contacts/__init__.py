"""How a client may be reached: over which channels, and which kinds of messages he takes."""
