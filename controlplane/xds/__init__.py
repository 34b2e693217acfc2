"""xDS: sessions as pure state machines, and the one module that speaks gRPC."""
