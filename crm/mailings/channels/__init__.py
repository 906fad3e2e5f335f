"""Ways of sending. A channel knows addresses and texts, no domain: it never sees a client or a bill."""
