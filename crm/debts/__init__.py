"""Debts: what clients owe, to which city, since when and for what; accruing it, writing it off."""
