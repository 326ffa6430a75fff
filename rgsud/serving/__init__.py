"""Deraining as a service over HTTP, with a page: one process on one machine."""
