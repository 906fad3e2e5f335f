"""Fields staff add to clients, accounts, bills and subscriptions, per company; built-in fields a company hides."""
