"""Egress: the only process that connects out, and the till: keys, ledger, quotas."""
