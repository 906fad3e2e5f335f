"""Excel by the clock: a selection sent as a file, every Monday, to these addresses."""
