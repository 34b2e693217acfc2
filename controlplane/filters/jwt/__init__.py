"""JSON Web Tokens: who may call a route."""
