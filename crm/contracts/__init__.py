"""Contracts with clients: texts of a company, filled in from the client's card."""
