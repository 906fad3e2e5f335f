"""Payments: at the desk and online. A payment reaches the ledger exactly once."""
