"""What the HTTP service is made of; `pool_store.service` puts it together."""
