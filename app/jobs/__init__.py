"""Jobs of the service: their records, where they are stored, and the engine that runs them."""
