"""The book's tool: list, run, refresh, check and build chapters. It never imports PyTorch."""
