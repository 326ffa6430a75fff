"""The four networks of the method; sizes come from their settings."""
