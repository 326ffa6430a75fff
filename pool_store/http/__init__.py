"""What the HTTP service is made of; `pool_store.http.app` puts it together."""
