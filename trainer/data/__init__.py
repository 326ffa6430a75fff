"""Image folders, random crops, the catalogue of data sets, and demonstration data."""
