"""Other trainers: their dumps read, methods of ours inside them. Their packages are imported only when asked for."""
