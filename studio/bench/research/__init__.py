"""Trials whose result decided something; `LOG.md` keeps what they showed."""
