"""Plans, and the subscriptions sold from them."""
