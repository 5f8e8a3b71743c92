"""A server and a web page for trained models."""
