"""Everything countable: accounts, and transactions of balanced entries. operations.post() is the only writer.

Sign: an entry is positive when the account's owner gains a claim on the business. A client's deposit of 1000 in cash
is +1000 on the client's account and -1000 on the cash desk, so the cash in the desk is the negated sum of its entries.
"""
