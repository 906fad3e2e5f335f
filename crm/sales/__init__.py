"""Subscriptions and money at the desk: a sale with its payment, recalculation, return, transfer of lessons."""
