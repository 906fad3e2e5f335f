"""Person cards: payers and those they pay for."""
