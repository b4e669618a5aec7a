"""What is made outside a build: GeoNames' facts, the published neurons' atlas, `pocket-bert`."""
