"""Parts that are not about images: device, precision, processes, threads, memory, randomness, registries and files."""
