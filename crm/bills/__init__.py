"""Bills: issued by hand or by a mailing, paid on a public page, archived for good."""
