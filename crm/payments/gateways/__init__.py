"""Payment gateways. They know money and addresses, no domain: a gateway never sees a bill or a client."""
