"""Lets the tests of the folders below import the tiny models that lie here."""
