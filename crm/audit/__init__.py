"""Who changed what, when, from what to what. Written by one flush listener and by transition()."""
